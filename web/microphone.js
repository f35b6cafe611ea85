// In the audio thread: hands on what the microphone hears, a tenth of a second at a time.
class Microphone extends AudioWorkletProcessor {
  #samples = new Float32Array(1600);
  #held = 0;

  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.#samples[this.#held++] = sample;
      if (this.#held < 1600) continue;
      this.port.postMessage(this.#samples);
      this.#held = 0;
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
