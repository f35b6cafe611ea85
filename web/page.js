import { load } from "./pocket.js";

const at = (id) => document.getElementById(id);
let model, name, stream, listening;
let turn = 0; // of whoever feeds the stream: who begins later ends those before
let asked = 0; // models, in the order in which they were asked for
let newest = 0; // the one that is open

/** Shows what the stream has heard, and what that took. */
function show() {
  say(stream.text);
  const factor = stream.milliseconds / 1000 / Math.max(stream.seconds, 0.01);
  const cost = stream.seconds ? `; real-time factor ${factor.toFixed(4)}` : "";
  at("about").textContent = `${name}, ${(model.bytes / 1e6).toFixed(1)} MB of memory${cost}`;
}

/** New words are added, so that they alone are read to those who cannot see them. */
function say(text) {
  const shown = at("text").textContent;
  if (text === shown) return;
  if (text.startsWith(shown)) at("text").append(text.slice(shown.length));
  else at("text").textContent = text;
}

/** What a person asked for, or one line why not. */
async function attempt(what) {
  at("wrong").textContent = "";
  try {
    await what();
  } catch (error) {
    at("wrong").textContent = error.message;
  }
}

async function open(source, called) {
  const mine = ++asked;
  const made = await load(source);
  if (mine < newest) return; // another one was asked for later, and is there
  [newest, model, name] = [mine, made, called];
  at("chunk").replaceChildren(...model.chunks.map((size) => new Option(`${size * 40} ms`, size)));
  for (const button of ["listen", "example"]) at(button).disabled = false;
  begin();
}

/** An empty stream, and the turn of whoever is to feed it; the microphone may go on. */
function begin({ listens = false } = {}) {
  if (!model) throw new Error("no model yet: wait until it is there, or drop a .pocket file");
  if (listening && !listens) release();
  stream?.close();
  stream = model.stream(Number(at("chunk").value));
  show();
  return ++turn;
}

/** A recording of any kind that the browser knows, piece by piece so that the text grows. */
async function hear(bytes) {
  const context = new OfflineAudioContext(1, 1, 16000);
  const samples = mono(await context.decodeAudioData(bytes));
  const mine = begin();
  for (let first = 0; first < samples.length; first += 16000) {
    stream.accept(samples.subarray(first, first + 16000));
    show();
    await new Promise(requestAnimationFrame);
    if (mine !== turn) return;
  }
  stream.finish();
  show();
}

/** The mean of a recording's channels. */
function mono(recording) {
  const samples = new Float32Array(recording.length);
  for (let i = 0; i < recording.numberOfChannels; ++i)
    recording.getChannelData(i).forEach((x, t) => (samples[t] += x / recording.numberOfChannels));
  return samples;
}

async function take(file) {
  if (!file) return; // the choice was given up
  const bytes = await file.arrayBuffer();
  await (file.name.endsWith(".pocket") ? open(bytes, file.name) : hear(bytes));
}

async function example() {
  const answer = await fetch("example.flac");
  if (!answer.ok) throw new Error(`example.flac: ${answer.status} ${answer.statusText}`);
  await hear(await answer.arrayBuffer());
}

/** The microphone on or off. */
async function listen() {
  at("listen").disabled = true; // until it is one or the other
  try {
    await (listening ? stop() : start());
  } finally {
    at("listen").disabled = false;
  }
}

async function start() {
  if (!navigator.mediaDevices)
    throw new Error("no microphone: browsers give one to pages of https and of localhost alone");
  const sound = await navigator.mediaDevices.getUserMedia({
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false },
  });
  const context = new AudioContext();
  try {
    await context.audioWorklet.addModule(new URL("microphone.js", import.meta.url));
    const microphone = new AudioWorkletNode(context, "microphone");
    context.createMediaStreamSource(sound).connect(microphone);
    begin();
    listening = { sound, context, port: microphone.port };
    microphone.port.onmessage = ({ data }) => {
      if (listening?.context !== context) return;
      if (!data) return listening.ended();
      stream.accept(data);
      show();
    };
    at("listen").textContent = "Stop";
  } catch (error) {
    silence(sound, context);
    throw error;
  }
}

/** What was said to the last sample, and the microphone given back. */
async function stop() {
  const mine = listening;
  const ended = new Promise((resolve) => (listening.ended = resolve));
  listening.port.postMessage("stop");
  await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 500))]);
  if (mine !== listening) return; // somebody else has begun, and stopped it
  release();
  stream.finish();
  show();
}

function release() {
  silence(listening.sound, listening.context);
  listening = undefined;
  at("listen").textContent = "Listen";
}

function silence(sound, context) {
  for (const track of sound.getTracks()) track.stop();
  context.close();
}

at("listen").onclick = () => attempt(listen);
at("example").onclick = () => attempt(example);
at("chunk").onchange = () => attempt(() => begin({ listens: true }));
at("file").onchange = ({ target }) => attempt(() => take(target.files[0]));
at("text").ondragover = (event) => event.preventDefault();
at("text").ondrop = (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  attempt(() => take(file));
};

attempt(() => open("model.pocket", "model.pocket"));
