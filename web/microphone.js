// In the audio thread: what the microphone hears, at 16 kHz, a tenth of a second at a time; after any
// message what is left, and null. Browsers differ in the rates that a microphone may have (Firefox: the
// device's own), so it comes at the device's and is brought down here, by a windowed sinc.
const RATE = 16000;
const PIECE = 1600;
const REACH = 12; // zero crossings of the sinc on either side

const divisor = (a, b) => (b ? divisor(b, a % b) : a);

class Microphone extends AudioWorkletProcessor {
  #up = RATE / divisor(RATE, sampleRate);
  #down = sampleRate / divisor(RATE, sampleRate);
  #phases = phases(this.#up, this.#down); // weights of each place that an output has between inputs
  #past = new Float32Array(this.#phases[0].length - 1);
  #first = 0; // input of the next output's first weight, counted from the past's first
  #phase = 0;
  #piece = new Float32Array(PIECE);
  #held = 0;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.port.postMessage(this.#piece.slice(0, this.#held));
      this.port.postMessage(null);
    };
  }

  process([[channel]]) {
    if (channel) this.#hear(channel);
    return true;
  }

  #hear(channel) {
    const heard = new Float32Array(this.#past.length + channel.length);
    heard.set(this.#past);
    heard.set(channel, this.#past.length);
    while (this.#first < channel.length) {
      const weights = this.#phases[this.#phase];
      let sample = 0;
      for (let k = 0; k < weights.length; ++k) sample += weights[k] * heard[this.#first + k];
      this.#put(sample);
      this.#phase += this.#down;
      this.#first += Math.floor(this.#phase / this.#up);
      this.#phase %= this.#up;
    }
    this.#first -= channel.length;
    this.#past = heard.slice(channel.length);
  }

  #put(sample) {
    this.#piece[this.#held++] = sample;
    if (this.#held < PIECE) return;
    this.port.postMessage(this.#piece);
    this.#held = 0;
  }
}

/** A low pass of the lower rate's half, sampled between inputs: [up][taps], each of sum 1. */
function phases(up, down) {
  const narrow = Math.min(1, up / down);
  const reach = Math.ceil(REACH / narrow);
  return Array.from({ length: up }, (_, phase) => {
    const weights = Float32Array.from({ length: 2 * reach }, (_, k) => {
      const x = k + 1 - reach - phase / up; // inputs from the output on
      const window = Math.cos((Math.PI * x) / (2 * reach + 2)) ** 2;
      const angle = Math.PI * narrow * x;
      return (angle ? Math.sin(angle) / angle : 1) * window;
    });
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((weight) => weight / sum);
  });
}

registerProcessor("microphone", Microphone);
