import { load } from "./pocket.js";

const at = (id) => document.getElementById(id);
let model, name, stream, listening;

/** Shows what the stream has heard, and what that took. */
function show() {
  at("text").textContent = stream.text;
  const factor = stream.milliseconds / 1000 / Math.max(stream.seconds, 0.01);
  const cost = stream.seconds ? `; real-time factor ${factor.toFixed(4)}` : "";
  at("about").textContent = `${name}, ${(model.bytes / 1e6).toFixed(1)} MB of memory${cost}`;
  at("about").className = "";
}

function refuse(error) {
  at("about").textContent = error.message;
  at("about").className = "wrong";
}

function open(made, called) {
  model = made;
  name = called;
  at("chunk").replaceChildren(...model.chunks.map((size) => new Option(`${size * 40} ms`, size)));
  for (const button of ["listen", "example"]) at(button).disabled = false;
  begin();
}

function begin() {
  stream?.close();
  stream = model.stream(Number(at("chunk").value));
  show();
}

/** A recording of any kind that the browser knows, piece by piece so that the text grows. */
async function hear(bytes) {
  const context = new OfflineAudioContext(1, 1, 16000);
  const samples = (await context.decodeAudioData(bytes)).getChannelData(0);
  begin();
  for (let first = 0; first < samples.length; first += 16000) {
    stream.accept(samples.subarray(first, first + 16000));
    show();
    await new Promise(requestAnimationFrame);
  }
  stream.finish();
  show();
}

async function take(file) {
  const bytes = await file.arrayBuffer();
  if (file.name.endsWith(".pocket")) open(await load(bytes), file.name);
  else await hear(bytes);
}

async function listen() {
  if (listening) {
    for (const track of listening.sound.getTracks()) track.stop();
    await listening.context.close();
    listening = undefined;
    stream.finish();
    show();
  } else {
    const sound = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false },
    });
    const context = new AudioContext({ sampleRate: 16000 });
    await context.audioWorklet.addModule(new URL("microphone.js", import.meta.url));
    const microphone = new AudioWorkletNode(context, "microphone");
    begin();
    microphone.port.onmessage = ({ data }) => {
      if (!listening) return;
      stream.accept(data);
      show();
    };
    context.createMediaStreamSource(sound).connect(microphone);
    listening = { sound, context };
  }
  at("listen").textContent = listening ? "Stop" : "Listen";
}

at("listen").onclick = () => listen().catch(refuse);
at("example").onclick = () =>
  fetch("example.flac")
    .then((answer) => answer.arrayBuffer())
    .then(hear)
    .catch(refuse);
at("chunk").onchange = begin;
at("file").onchange = ({ target }) => take(target.files[0]).catch(refuse);
at("text").ondragover = (event) => event.preventDefault();
at("text").ondrop = (event) => {
  event.preventDefault();
  take(event.dataTransfer.files[0]).catch(refuse);
};

load("model.pocket").then((made) => open(made, "model.pocket"), refuse);
