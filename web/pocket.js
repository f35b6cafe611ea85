/**
 * Pocketscribe in the browser: `.pocket` files, heard on this device. Types are in pocket.d.ts.
 *
 *     import { load } from "./pocket.js";
 *     const model = await load("model.pocket");
 *     const stream = model.stream();
 *     stream.accept(samples);        // Float32Array, 16 kHz, any length
 *     console.log(stream.finish());  // or stream.text at any time
 */

// A module of one function that uses a relaxed instruction: whether this browser takes it.
const RELAXED = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 19, 1, 17, 0, 65, 0, 253,
  15, 65, 0, 253, 15, 65, 0, 253, 15, 253, 147, 2, 11,
);
const WHY = 256;
const WORD = "\u2581"; // starts a word

let compiled;

/** The engine, compiled once a page. */
function engine() {
  const file = WebAssembly.validate(RELAXED) ? "pocket-wasm-relaxed.wasm" : "pocket-wasm.wasm";
  compiled ??= fetched(new URL(file, import.meta.url))
    .then((bytes) => WebAssembly.compile(bytes)) // whatever type the server says that it is of
    .catch((why) => {
      compiled = undefined; // another time the network may be there
      throw why;
    });
  return compiled;
}

async function fetched(url) {
  const answer = await fetch(url);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
}

/** Opens a model: a URL, or the bytes of a file. Rejects with one line where it is refused. */
export async function load(source) {
  const data =
    source instanceof ArrayBuffer || ArrayBuffer.isView(source)
      ? source
      : await fetched(source);
  // What the C library would ask of a system; there is none, and nothing of it is needed.
  const system = new Proxy({}, { get: () => () => 52 });
  const instance = await WebAssembly.instantiate(await engine(), {
    wasi_snapshot_preview1: system,
  });
  const bytes = ArrayBuffer.isView(data)
    ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    : new Uint8Array(data);
  return new Model(instance.exports, bytes);
}

class Model {
  #wasm;
  #model;

  constructor(wasm, bytes) {
    this.#wasm = wasm;
    wasm._initialize?.();
    const place = wasm.malloc(bytes.length);
    const why = wasm.malloc(WHY);
    new Uint8Array(wasm.memory.buffer).set(bytes, place);
    this.#model = orTrapped(() => wasm.pocket_open_memory(place, bytes.length, why));
    if (!this.#model) throw new Error(text(wasm, why));
    const info = wasm.malloc(32);
    wasm.pocket_describe(info, this.#model);
    const [vocabulary, , , chunks, sizes, head, card] = words(wasm, info, 7);
    this.chunks = Array.from(words(wasm, sizes, chunks));
    this.head = text(wasm, head);
    this.card = JSON.parse(text(wasm, card) || "{}");
    this.units = Array.from({ length: vocabulary }, (_, i) =>
      text(wasm, wasm.pocket_unit(this.#model, i)),
    );
    wasm.free(info);
    wasm.free(why);
  }

  /** A live utterance; `chunk` is one of `chunks`, in frames of 40 ms. */
  stream(chunk = 0) {
    return new Stream(this.#wasm, this.#model, this.units, chunk);
  }

  /** Bytes that all of it takes: model, engines and streams. */
  get bytes() {
    return this.#wasm.memory.buffer.byteLength;
  }
}

class Stream {
  #wasm;
  #engine;
  #number;
  #place;
  #result;
  #units;

  constructor(wasm, model, units, chunk) {
    this.#wasm = wasm;
    this.#units = units;
    this.#place = wasm.malloc(4 * 16000);
    this.#result = wasm.malloc(WHY);
    words(wasm, this.#place, 11).fill(0).set([chunk, 1]);
    this.#engine = orTrapped(() => wasm.pocket_engine_new(model, this.#place, this.#result));
    if (!this.#engine) {
      const why = text(wasm, this.#result);
      this.#free();
      throw new Error(why);
    }
    this.#number = wasm.pocket_stream_new(this.#engine);
    this.#clear();
  }

  #clear() {
    this.tokens = [];
    this.milliseconds = 0; // spent on it
    this.seconds = 0; // heard
  }

  /** Hears samples in [-1, 1] at 16 kHz. */
  accept(samples) {
    this.#check();
    const start = performance.now();
    for (let at = 0; at < samples.length; ) {
      const some = samples.subarray(at, at + 16000);
      new Float32Array(this.#wasm.memory.buffer, this.#place, some.length).set(some);
      const taken = this.#wasm.pocket_accept(this.#engine, this.#number, this.#place, some.length);
      if (taken < 0) throw new Error("the stream has ended, or a sample is no number");
      at += taken;
      this.#decode();
    }
    this.seconds += samples.length / 16000;
    this.milliseconds += performance.now() - start;
  }

  /** No more comes: all that was said. Then only `reset` goes. */
  finish() {
    this.#check();
    const start = performance.now();
    this.#wasm.pocket_finish(this.#engine, this.#number);
    this.#decode();
    this.milliseconds += performance.now() - start;
    return this.text;
  }

  /** A new utterance. */
  reset() {
    this.#check();
    this.#wasm.pocket_stream_reset(this.#engine, this.#number);
    this.#clear();
  }

  /** Gives the memory back; the text stays. */
  close() {
    if (!this.#engine) return;
    this.#wasm.pocket_engine_free(this.#engine);
    this.#engine = 0;
    this.#free();
  }

  #free() {
    this.#wasm.free(this.#place);
    this.#wasm.free(this.#result);
  }

  #check() {
    if (!this.#engine) throw new Error("the stream is closed");
  }

  get text() {
    return this.tokens.map((token) => token.unit).join("").replaceAll(WORD, " ").trim();
  }

  #decode() {
    while (this.#wasm.pocket_step(this.#engine) > 0) {
      this.#wasm.pocket_take(this.#engine, this.#number, this.#result);
      const [tokens, count] = words(this.#wasm, this.#result, 2);
      const ints = words(this.#wasm, tokens, 3 * count);
      const floats = new Float32Array(ints.buffer, tokens, 3 * count);
      for (let i = 0; i < 3 * count; i += 3)
        this.tokens.push({
          unit: this.#units[ints[i]],
          time: Math.round(ints[i + 1] * 4) / 100,
          score: floats[i + 2],
        });
    }
  }
}

/** The module traps where its memory runs out. */
function orTrapped(make) {
  try {
    return make();
  } catch {
    throw new Error("not enough memory for this model here");
  }
}

/** 32-bit integers of the module's memory; a new view each time, for memory moves as it grows. */
function words(wasm, place, count) {
  return new Int32Array(wasm.memory.buffer, place, count);
}

function text(wasm, place) {
  const bytes = new Uint8Array(wasm.memory.buffer, place);
  return new TextDecoder().decode(bytes.subarray(0, bytes.indexOf(0)));
}
