"""One verb for every target: `export(model, to, out)`."""

from pathlib import Path

from pocketscribe.errors import UserError, needs_extra
from pocketscribe.export.open import exported_graphs, model_file
from pocketscribe.export.quiet import quietly
from pocketscribe.export.seal import folder_bytes
from pocketscribe.files import check_kept, check_no_input, check_place
from pocketscribe.models import decoded
from pocketscribe.models.chunks import Chunk
from pocketscribe.models.saved import Saved, load_model, save_model, save_packed

FOLDERS = ("onnx", "sherpa-onnx", "executorch")
TARGETS = ("packed", "safetensors", *FOLDERS)


def export(model: Path, to: str, out: Path, *, int8: bool = False, chunk: Chunk = None) -> int:
    """Writes a trained model for a runtime; returns the bytes that a device must hold.

    Raises:
        UserError: an unknown target, a model that the target cannot run, or a missing package.
    """
    check_target(to, out)
    file = model_file(model)
    check_no_input(out, [file])
    return export_saved(load_model(file), to, out, int8=int8, chunk=chunk)


def check_target(to: str, out: Path) -> None:
    """Refuses, before any work, what is no target, and a place that holds something else."""
    if to not in TARGETS:
        raise UserError(f"export --to {to}: not a target; choose {', '.join(TARGETS)}")
    check_place(out, folder=to in FOLDERS)
    if out.is_dir() and exported_graphs(out) != ("pte" if to == "executorch" else "onnx"):
        check_kept(out)


def export_saved(
    saved: Saved, to: str, out: Path, *, int8: bool = False, chunk: Chunk = None
) -> int:
    """The same of a model in memory, for one of `TARGETS`."""
    chunking = saved.model.config.chunks.choose(chunk)
    if int8 and to not in ("onnx", "sherpa-onnx"):
        raise UserError(f"export --to {to}: --int8 is for onnx targets")
    if to not in FOLDERS:
        if chunk is not None:
            raise UserError(f"export --to {to}: it holds all chunkings; leave out --chunk")
        if to == "packed":
            save_packed(out, saved)
        else:
            save_model(out, Saved(decoded(saved.model), saved.units, saved.card), half=True)
        return out.stat().st_size
    if chunking.size is None:
        raise UserError(
            "export: full context cannot stream; choose another --chunk, "
            "or train with a number in model.chunks.sizes"
        )
    if to == "executorch":
        with needs_extra("executorch", f"export --to {to}"), quietly():
            from pocketscribe.export.executorch import export_executorch

            export_executorch(saved, chunking, out)
    else:
        with needs_extra("export", f"export --to {to}"):
            from pocketscribe.export.onnx import export_onnx
        export_onnx(saved, chunking, out, sherpa=to == "sherpa-onnx", int8=int8)
    return folder_bytes(out)
