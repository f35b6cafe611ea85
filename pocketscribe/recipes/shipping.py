"""What a run ships: each scored stage's model in one file, which knows what it is and does."""

import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress as Bar

from pocketscribe.decoding.searcher import DecodingConfig
from pocketscribe.evaluation.evaluate import evaluate
from pocketscribe.evaluation.report import read_results
from pocketscribe.export.torch_runtime import TorchRuntime
from pocketscribe.files import file_digest, write_json
from pocketscribe.models import Recogniser, stored_parameters
from pocketscribe.models.saved import Saved, load_model, save_model, save_packed, sketch
from pocketscribe.recipes.recipe import Recipe, StageConfig
from pocketscribe.speech.batches import Trainable
from pocketscribe.speech.corpora import NOTHING_HELD_OUT, CorpusConfig, fingerprint, locate
from pocketscribe.training.checkpoint import Progress
from pocketscribe.training.fabric import use_fitting_threads
from pocketscribe.weights.sharing import Sharing


def card(
    recipe: str,
    stage: StageConfig,
    model: Recogniser,
    heard: Sequence[Trainable],
    progress: Progress,
    before: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What a model is, for its file's header and for people; scores join it when it ships.

    `before` are the stages that it went through already.
    """
    made = {
        "name": stage.name,
        "trained_on": [_heard(part) for part in heard],
        "audio_hours_heard": round(progress.audio_seconds / 3600, 2),
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "weights": progress.chosen,
        "wall_minutes": round(progress.wall_seconds / 60, 1),
        "seed": stage.seed,
        "parameters": stored_parameters(model),
    }
    smaller = stage.cut is not None or bool(stage.model)
    if stage.taught_by is not None and (smaller or stage.taught_by != stage.from_):
        made["teacher"] = stage.taught_by  # another one than itself as it was
    if stage.supernet is not None:  # what can be taken out of it
        made["space"] = stage.supernet.space.model_dump(mode="json", exclude_defaults=True)
    return {
        "recipe": recipe,
        "parameters": stored_parameters(model),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "made": time.strftime("%Y-%m-%d", time.gmtime()),
        "stages": [*before, made],
    }


def score_and_ship(
    recipe: Recipe, stages: Sequence[str], folder: Path, root: Path | None, bar: Bar
) -> dict[str, Any]:
    """Ships the models of stages, and scores those files on each dev and test part, once.

    The results, which also lie in results.json, map a stage to its file's name, its chunking and
    its scores.
    """
    path, beam = folder / "results.json", recipe.evaluate.beam
    before = read_results(path) if path.is_file() else {}
    results: dict[str, Any] = {"recipe": recipe.name, "beam": beam}
    if recipe.changed:
        results["changed"] = list(recipe.changed)
    results["models"] = before.get("models", {}) if before.get("beam", beam) == beam else {}
    parts = [(part, _made_of(part, root)) for part in (*recipe.speech.dev, *recipe.speech.test)]
    for stage in stages:
        trained, shipped = folder / stage / "model.safetensors", _shipped(recipe, stage, folder)
        made_of = file_digest(trained)[:8]
        model = results["models"].get(stage)
        anew = model is None or model.get("made_of", made_of) != made_of  # older ones do not tell
        if anew or not shipped.is_file():
            _write(shipped, load_model(trained))
        runtime = TorchRuntime(shipped, DecodingConfig(beam=beam))
        use_fitting_threads(runtime.parameters_stored)  # one clock for all, whoever has trained
        results["models"][stage] = model = {
            "file": shipped.name,
            "chunk": str(runtime.chunking),
            "made_of": made_of,
            "methods": methods(sketch(shipped)),
            "scores": {} if anew else model["scores"],
        }
        for corpus, said in parts:
            scored = model["scores"].get(corpus.title)
            if scored is None or scored.get("made_of", said) != said:
                task = bar.add_task(f"score {stage} on {corpus.title}", total=None)
                found = evaluate(runtime, corpus, root)
                model["scores"][corpus.title] = {**found, "made_of": said}
                bar.remove_task(task)
                write_json(path, results)
        _put_on_card(shipped, model["scores"])
    if not path.is_file() or read_results(path) != results:
        write_json(path, results)
    return results


def _made_of(corpus: CorpusConfig, root: Path | None) -> str:
    """A digest of a part as it lies here, and of how it is grouped: titles tell not all of it."""
    found = fingerprint(corpus, locate(corpus, root), NOTHING_HELD_OUT)
    return found if corpus.group is None else f"{found} {corpus.group}"


def methods(saved: Saved) -> list[str]:
    """Which systems made a model, for reports; none is a plain one."""
    config, stages = saved.model.config, saved.stages
    found = []
    if config.sharing != Sharing() or config.ranks:
        found.append("shared low-rank")
    if any("space" in stage for stage in stages):
        found.append("supernet")
    if any("teacher" in stage for stage in stages):
        found.append("distilled")
    if config.formats:
        rule = config.formats[-1]  # the one for all that no other is about
        bits = f"int{rule.bits}" if rule.bits else None
        found.append(" ".join(filter(None, (bits, rule.sparsity))))
    return list(filter(None, found))


def _shipped(recipe: Recipe, stage: str, folder: Path) -> Path:
    """The file that a stage's model ships in; the last stage's goes by the recipe's name."""
    name = recipe.name if stage == recipe.stage[-1].name else f"{recipe.name}-{stage}"
    few_bits = sketch(folder / stage / "model.safetensors").model.config.formats
    return folder / f"{name}{'.pocket' if few_bits else '.safetensors'}"


def _write(shipped: Path, saved: Saved) -> None:
    """In true bits where the model has formats, else in float16."""
    if saved.model.config.formats:
        save_packed(shipped, saved)
    else:
        save_model(shipped, saved, half=True)


def _put_on_card(shipped: Path, scores: dict[str, dict[str, Any]]) -> None:
    """Writes the scores on the very file's card, and what it weighs then into the scores."""
    saved, keys = load_model(shipped), ("wer", "ci_low", "ci_high", "words")
    told = {title: {key: result[key] for key in keys} for title, result in scores.items()}
    if saved.card.get("scores") != told:
        saved.card["scores"] = told
        _write(shipped, saved)
    size = shipped.stat().st_size
    for result in scores.values():
        result["bytes"] = size


def _heard(part: Trainable) -> dict[str, Any]:
    """A training part by its name, not by a path that is nobody else's, and how much there is."""
    config = part.prepared.config.model_dump(mode="json", exclude_defaults=True)
    config["corpus"] = part.prepared.config.name
    return {**config, "hours": round(part.seconds / 3600, 3)}
