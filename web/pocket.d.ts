/** A label that was emitted. */
export interface Token {
  /** Its text; U+2581 in it starts a word. */
  unit: string;
  /** When, in seconds of the utterance. */
  time: number;
  /** Natural log of its probability. */
  score: number;
}

export interface Model {
  /** Chunk sizes in frames of 40 ms; the first is the model's own choice. */
  readonly chunks: number[];
  readonly head: "transducer" | "ctc";
  /** What it was trained on, and how well it does. */
  readonly card: Record<string, unknown>;
  readonly units: string[];
  /** Memory of model, engines and streams together. */
  readonly bytes: number;
  /** A live utterance. Throws where the model has no such chunk. */
  stream(chunk?: number): Stream;
}

export interface Stream {
  readonly tokens: Token[];
  /** What was said so far. */
  readonly text: string;
  /** Seconds heard, and milliseconds spent on them. */
  readonly seconds: number;
  readonly milliseconds: number;
  /** Hears samples in [-1, 1] at 16 kHz, any number of them. */
  accept(samples: Float32Array): void;
  /** No more comes: all that was said. */
  finish(): string;
  /** A new utterance. */
  reset(): void;
  /** Gives the memory back. Then only what was heard can be asked for. */
  close(): void;
}

/** Opens a `.pocket` file by its URL or its bytes; rejects with the reason where it is refused. */
export function load(source: string | URL | ArrayBuffer | ArrayBufferView): Promise<Model>;
