// The page at /: shows one stream and polls /state. URLs are relative, so that the page works behind a proxy under any
// path. A token in the page's own URL is added to each request and never shown.
'use strict';

const POLL_MS = 2000; // between two requests of /state
const STUCK_MS = 10000; // when a picture stays the same for this time, the connection is dead

const $ = (id) => document.getElementById(id);
const home = location.origin + location.pathname.replace(/[^/]*$/, '');
const token = new URLSearchParams(location.search).get('token');
const view = $('view');

const MODES = { live: 'Live', paused: 'Paused', replay: 'Replay' };
let mode = 'live';
let hub = null; // `framehub` in /state
let viewers = 0;
let offline = ''; // why /state could not be read
let refusal = ''; // why there is no stream
const isWatching = () => mode === 'live' && !document.hidden;
let starts = 0; // consecutive polls that found the camera starting: some never stop
let isNewCamera = true; // its controls have not been read

function at(path) {
  const url = new URL(path, home);
  if (token) url.searchParams.set('token', token);
  return url.href;
}

// Returns what `read` makes of the response. An Error has the server's text and `isRefused`, or says there was none.
async function request(path, read = (response) => response.json(), { seconds = 15, ...options } = {}) {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), seconds * 1000);
  try {
    const response = await fetch(at(path), { cache: 'no-store', signal: abort.signal, ...options });
    clearTimeout(timer);
    if (response.ok) return await read(response);
    const isText = (response.headers.get('Content-Type') || '').startsWith('text/plain');
    const text = (isText && (await response.text()).trim()) || `${response.status} ${response.statusText}`;
    throw Object.assign(new Error(text), { isRefused: true });
  } catch (error) {
    throw error.isRefused ? error : new Error(`no response from framehub at ${location.host}`);
  }
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// Screen readers announce a live region at each write, even of the same text.
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// ---- The picture

const canvas = document.createElement('canvas');

// In Firefox drawImage() of an <img> draws a stream's picture of up to 20 s ago, but not of a bitmap.
async function draw(width, height) {
  const bitmap = await createImageBitmap(view);
  canvas.width = width || bitmap.width;
  canvas.height = height || bitmap.height;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return context;
}

let retry = 0;

function connect() {
  clearTimeout(retry);
  seenAt = Date.now();
  // The page says itself what is wrong.
  const stream = `stream?no_signal=0&${seenAt}`;
  if (isWebKit) play(at(`${stream}&type=mixed`));
  else view.src = at(stream);
}

// WebKit goes on loading the stream of an <img> that has another address or is gone; a fetch ends.
const isWebKit = /AppleWebKit/.test(navigator.userAgent) && !/Chrome|Chromium/.test(navigator.userAgent);
let playing = new AbortController();

async function play(url) {
  playing.abort();
  playing = new AbortController();
  const { signal } = playing;
  try {
    const response = await fetch(url, { signal });
    if (!response.ok) throw new Error();
    const reader = response.body.getReader();
    let bytes = new Uint8Array(0);
    for (let read; !(read = await reader.read()).done;) {
      const joined = new Uint8Array(bytes.length + read.value.length);
      joined.set(bytes);
      joined.set(read.value, bytes.length);
      bytes = joined;
      for (;;) {
        const head = /^[^]*?Content-Length: (\d+)[^]*?\r\n\r\n/.exec(String.fromCharCode(...bytes.subarray(0, 999)));
        const end = head ? head[0].length + Number(head[1]) : Infinity;
        if (bytes.length < end) break;
        if (view.complete) showBlob(new Blob([bytes.subarray(head[0].length, end)], { type: 'image/jpeg' }));
        bytes = bytes.slice(end);
      }
    }
    throw new Error();
  } catch {
    if (!signal.aborted) view.dispatchEvent(new Event('error'));
  }
}

function showBlob(blob) {
  const url = URL.createObjectURL(blob);
  view.addEventListener('load', () => URL.revokeObjectURL(url), { once: true });
  view.src = url;
}

// Shows the newest picture in place of the stream, which ends.
async function freeze() {
  playing.abort();
  if (isWebKit) return; // it has no stream
  const hasPicture = await draw().then(() => true, () => false);
  if (isWatching()) return;
  if (hasPicture) view.src = canvas.toDataURL('image/jpeg', 0.92);
  else view.removeAttribute('src');
}

let seen = '';
let seenAt = 0;

// No event tells that an <img>'s stream has ended or stalled, so its pixels are compared.
async function isStuck() {
  if (!view.naturalWidth && view.complete) return true;
  const now = await draw(24, 18).then((context) => context.getImageData(0, 0, 24, 18).data.join(), () => '');
  if (now !== seen) seenAt = Date.now();
  seen = now;
  return Date.now() - seenAt > STUCK_MS;
}

view.addEventListener('load', () => (refusal = ''));
view.addEventListener('error', async () => {
  if (!isWatching() || !(isWebKit || view.hasAttribute('src'))) return;
  try {
    await request('stream', (response) => response.body.cancel());
    refusal = '';
  } catch (error) {
    refusal = error.message;
  }
  show();
  retry = setTimeout(() => isWatching() && connect(), POLL_MS);
});

function enter(newMode) {
  mode = newMode;
  const isLive = mode === 'live';
  const done = isLive ? connect() : freeze();
  $('replay').hidden = mode !== 'replay';
  $('pause').querySelector('span').textContent = isLive ? 'Pause' : 'Live';
  $('pause').querySelector('use').setAttribute('href', isLive ? '#i-pause' : '#i-live');
  show();
  return done;
}

$('pause').addEventListener('click', () => enter(mode === 'live' ? 'paused' : 'live'));

document.addEventListener('visibilitychange', () => {
  if (mode === 'live') document.hidden ? freeze() : connect();
  poll();
});

// ---- State

let timer = 0;

async function poll() {
  clearTimeout(timer);
  if (document.hidden) return;
  try {
    const before = hub ? hub.uptime_seconds : 0;
    const state = await request('state', undefined, { seconds: 5 });
    hub = state.framehub;
    viewers = state.result.stream.clients;
    const isNewServer = offline !== '' || hub.uptime_seconds < before;
    offline = '';
    starts = hub.camera.phase === 'starting' ? starts + 1 : 0;
    if ((isNewServer || (hub.healthy && (await isStuck()))) && isWatching()) connect();
    if (isNewServer || !hub.healthy) isNewCamera = true;
    if (isNewCamera && hub.healthy) loadControls();
  } catch (error) {
    offline = error.message;
  }
  show();
  clearTimeout(timer);
  timer = setTimeout(poll, POLL_MS);
}

function show() {
  const isStarting = starts > 0 && starts < 4;
  const trouble = offline || (!isStarting && hub?.trouble) || (mode === 'live' && refusal);
  const [mood, word] = trouble ? ['bad', offline ? 'Not connected' : 'No picture']
    : mode !== 'live' ? ['wait', MODES[mode]]
    : hub?.camera.phase === 'live' ? ['good', 'Live']
    : ['wait', hub ? 'Starting' : 'Connecting'];
  $('status').dataset.mood = mood;
  write($('status'), word);
  $('stage').classList.toggle('is-lost', Boolean(trouble) && mode === 'live');
  write($('trouble'), trouble ? sentence(trouble) : '');
  view.alt = `${MODES[mode]} picture`;
  if (!hub) return;
  const name = hub.camera.identity?.card || 'framehub';
  write($('name'), name);
  document.title = trouble ? `${word} · ${name}` : name;
  if (hub.displayed) $('stage').style.aspectRatio = `${hub.displayed.width} / ${hub.displayed.height}`;
  const seconds = hub.ring.replay_seconds;
  $('play-clip').hidden = !seconds;
  write($('play-clip').querySelector('span'), `Replay ${seconds}\u00a0s`);
  for (const figure of figures) figure();
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.!?)]$/.test(text) ? '' : '.');

const figures = [
  ['Viewers', () => viewers],
  ['Frames / s', () => hub.capture.fps.toFixed(1)],
  ['Size', () => (hub.displayed ? `${hub.displayed.width} × ${hub.displayed.height}` : '–')],
  ['Jitter', () => (hub.capture.fps ? `${hub.capture.jitter_ms.toFixed(1)} ms` : '–')],
  ['Broken', () => Object.values(hub.capture.broken).reduce((a, b) => a + b, 0)],
  ['Restarts', () => hub.capture.restarts],
  ['Stills', () => hub.stills.answered],
  ['Camera on', () => duration(hub.camera.open_seconds)],
  ['Memory', () => bytes(hub.process.resident_bytes)],
].map(([label, value]) => {
  const field = make('dd', {}, '–');
  $('figures').append(make('div', {}, make('dt', {}, label), field));
  return () => write(field, String(value()));
});

function duration(seconds) {
  const [d, h, m] = [86400, 3600, 60].map((unit) => Math.floor(seconds / unit));
  if (d) return `${d} d ${h % 24} h`;
  if (h) return `${h} h ${m % 60} min`;
  return m ? `${m} min` : `${Math.floor(seconds)} s`;
}

function bytes(count) {
  if (!count) return '–';
  return count < 1e6 ? `${Math.round(count / 1e3)} kB` : `${(count / 1e6).toFixed(1)} MB`;
}

// ---- Snapshot and still

function note(text, isBad) {
  $('note').dataset.mood = isBad ? 'bad' : '';
  write($('note'), text);
}

// A busy button stays focusable, so that keyboard users keep their place.
function onPress(id, work) {
  const button = $(id);
  button.addEventListener('click', async () => {
    if (button.getAttribute('aria-busy') === 'true') return;
    button.setAttribute('aria-busy', 'true');
    try {
      await work();
    } catch (error) {
      note(sentence(error.message), true);
    }
    button.removeAttribute('aria-busy');
  });
}

// Local time for file names.
function stamp(date) {
  return new Date(date - date.getTimezoneOffset() * 60000).toISOString().slice(0, 19).replace(/:/g, '-');
}

async function take(id, what) {
  note('Taking a picture …');
  const [blob, time] = await request(id, async (response) =>
    [await response.blob(), response.headers.get('X-Timestamp')]);
  const taken = time ? new Date(time * 1000) : new Date();
  URL.revokeObjectURL($('save-taken').href);
  const url = URL.createObjectURL(blob);
  const picture = $('taken-picture');
  $('open-taken').href = $('save-taken').href = url;
  $('save-taken').download = `framehub-${stamp(taken)}.jpg`;
  // Firefox's decode() can resolve with the picture before.
  await new Promise((onload, fail) =>
    Object.assign(picture, { onload, onerror: () => fail(new Error('the picture is broken')), src: url }));
  $('taken-what').textContent = what;
  $('taken-facts').textContent =
    `${picture.naturalWidth} × ${picture.naturalHeight}, ${bytes(blob.size)}, ${taken.toLocaleTimeString()}`;
  $('taken').hidden = false;
  note('');
  $('save-taken').focus();
  $('close-taken').onclick = () => {
    $('taken').hidden = true;
    $(id).focus();
  };
}

onPress('snapshot', () => take('snapshot', 'Snapshot'));
onPress('still', () => take('still', 'Full-resolution still'));

// ---- Replay: /clip as an AVI, in which each picture stands behind `00dc` and its length

let clip = [];

const AVI_HEAD = 224;

function split(file) {
  const numbers = new DataView(file);
  const pictures = [];
  for (let at = AVI_HEAD; numbers.getUint32(at) === 0x30306463; ) {
    const length = numbers.getUint32(at + 4, true);
    pictures.push(new Blob([new Uint8Array(file, at + 8, length)], { type: 'image/jpeg' }));
    at += 8 + length + (length % 2);
  }
  return pictures;
}

function showClip(number) {
  showBlob(clip[number]);
  $('seek').value = number;
  $('seek').setAttribute('aria-valuetext', `picture ${number + 1} of ${clip.length}`);
}

onPress('play-clip', async () => {
  const [file, rate] = await request(`clip?format=avi&last=${hub.ring.replay_seconds}s`, async (response) =>
    [await response.blob(), response.headers.get('X-Frame-Rate')]);
  const pictures = split(await file.arrayBuffer());
  await enter('replay');
  clip = pictures;
  $('seek').max = clip.length - 1;
  URL.revokeObjectURL($('save-clip').href);
  $('save-clip').href = URL.createObjectURL(file);
  $('save-clip').download = `framehub-${stamp(new Date())}.avi`;
  const began = performance.now();
  let shown = -1;
  requestAnimationFrame(function next() {
    const number = Math.min(clip.length - 1, Math.floor(((performance.now() - began) / 1000) * rate));
    // The user moved the slider or returned to the live picture.
    if (clip !== pictures || mode !== 'replay' || (shown >= 0 && $('seek').valueAsNumber !== shown)) return;
    if (number !== shown && view.complete) showClip((shown = number));
    if (shown < clip.length - 1) requestAnimationFrame(next);
  });
});
$('seek').addEventListener('input', () => showClip($('seek').valueAsNumber));

// ---- The camera's controls

const rows = new Map();
const wanted = new Map();
let isSetting = false;

async function loadControls() {
  isNewCamera = false;
  const access = hub.camera.controls;
  if (access === 'none') return;
  try {
    showControls(await request('controls'));
    $('reset').hidden = access !== 'write' || rows.size === 0;
  } catch (error) {
    isNewCamera = !error.isRefused;
    write($('controls-note'), sentence(error.message));
  }
  $('controls-card').hidden = rows.size === 0;
}

// One request at a time: later changes are sent together afterwards.
async function set(name, value) {
  wanted.set(name, value);
  if (isSetting) return;
  isSetting = true;
  try {
    while (wanted.size) {
      const body = JSON.stringify(Object.fromEntries(wanted));
      wanted.clear();
      showControls(await request('controls', undefined, { method: 'POST', body }));
    }
    write($('controls-note'), '');
  } catch (error) {
    wanted.clear();
    write($('controls-note'), sentence(error.message));
    request('controls').then(showControls, () => {});
  }
  isSetting = false;
}

function showControls(controls) {
  if (controls.map((control) => control.name).join() !== [...rows.keys()].join()) {
    rows.clear();
    for (const control of controls) rows.set(control.name, row(control));
    $('controls').replaceChildren(...[...rows.values()].map((one) => one.element));
  }
  for (const control of controls) rows.get(control.name).update(control);
}

function row(control) {
  const { name, label, min, max, step, type, menu } = control;
  const id = `control-${name}`;
  const send = ({ target }) => {
    if (target.checkValidity()) return set(name, Number(target.value));
    write($('controls-note'), `${label}: ${target.validationMessage}`);
  };
  const why = make('small');
  let inputs;
  if (type === 'boolean') {
    inputs = [make('input', { id, type: 'checkbox', onchange: ({ target }) => set(name, Number(target.checked)) })];
  } else if (type === 'button') {
    inputs = [make('button', { id, onclick: () => set(name, 1) }, label)];
  } else if (menu) {
    inputs = [make('select', { id, onchange: send }, ...menu.map((entry) => make('option', entry, entry.name)))];
  } else {
    const limits = { min, max, step: step || 1, required: true };
    const hasSlider = type === 'integer';
    inputs = [make('input', { id: hasSlider ? '' : id, type: 'number', onchange: send, ...limits })];
    inputs[0].setAttribute('aria-label', `${label}, as a number`);
    if (hasSlider) inputs.push(make('input', { id, type: 'range', oninput: send, ...limits }));
  }
  const caption = type === 'button' ? [] : [make('label', { htmlFor: id }, label, why)];
  const element = make('div', { className: 'control' }, ...caption, ...inputs);
  return {
    element,
    update({ value, flags }) {
      const isOff = ['inactive', 'grabbed', 'read-only'].find((flag) => flags.includes(flag));
      write(why, { inactive: 'inactive: set automatically', grabbed: 'not while the camera runs' }[isOff] || '');
      for (const input of inputs) {
        input.disabled = Boolean(isOff) || hub.camera.controls !== 'write';
        if (wanted.has(name) || type === 'button') continue;
        if (type === 'boolean') input.checked = value === 1;
        else if (value !== null) input.value = value;
      }
    },
  };
}

onPress('reset', () => set('reset', 1));

// ---- Settings to paste, as in src/assets/settings.txt, which --check prints

const recipes = [
  ['OctoPrint', 'Settings › Webcam & Timelapse', {
    'Stream URL': `${home}?action=stream`,
    'Snapshot URL': `${home}snapshot`,
  }],
  ['Octolapse', 'camera profile, custom camera', {
    'Base address': home,
    'Snapshot address template': '{camera_address}snapshot',
    'The same in full resolution': '{camera_address}still',
  }],
  ['Moonraker', 'for Mainsail and Fluidd', {
    'moonraker.conf': ['[webcam printer]', 'service: mjpegstreamer-adaptive', `stream_url: ${home}?action=stream`,
      `snapshot_url: ${home}snapshot`].join('\n'),
    'The same while Moonraker runs': 'curl -s -H "Content-Type: application/json" '
      + 'http://127.0.0.1:7125/server/webcams/item -d \'{"name": "printer", "service": "mjpegstreamer-adaptive", '
      + `"stream_url": "${home}?action=stream", "snapshot_url": "${home}snapshot"}'`,
    'moonraker-timelapse, full resolution': `snapshoturl: ${home}still`,
  }],
  ['Home Assistant', 'Settings › Devices & services › Add integration › MJPEG IP Camera', {
    'MJPEG URL': `${home}stream`,
    'Still image URL': `${home}snapshot`,
  }],
  ['Frigate', 'for detection and recording', {
    'config.yml': `go2rtc:\n  streams:\n    printer: ffmpeg:${home}stream?no_signal=0#video=h264#hardware`,
  }],
  ['go2rtc', 'for WebRTC, HLS and RTSP', { 'go2rtc.yaml': `streams:\n  printer: ${home}stream` }],
  ['VLC', 'Media › Open Network Stream', { 'Network URL': `${home}stream` }],
  ['wget', 'a full-resolution picture, named by the time', {
    Command: `wget -q -O "$(date +%Y%m%d-%H%M%S).jpg" ${home}still`,
  }],
];

async function copy(field, button) {
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
  } catch {
    // navigator.clipboard exists only with TLS.
    document.execCommand('copy');
    button.focus();
  }
  button.textContent = 'Copied';
  note(`Copied: ${button.dataset.what}`);
  setTimeout(() => (button.textContent = 'Copy'), 1500);
}

for (const [program, where, fields] of recipes) {
  const details = make('details', {}, make('summary', {}, make('strong', {}, program), make('span', {}, where)));
  for (const [label, value] of Object.entries(fields)) {
    const id = `paste-${program}-${label}`.replace(/\W+/g, '-');
    const rows = value.split('\n').length;
    const field = make('textarea', { id, value, rows, readOnly: true, spellcheck: false });
    const button = make('button', { onclick: () => copy(field, button) }, 'Copy');
    button.dataset.what = `${program}, ${label}`;
    button.setAttribute('aria-label', `Copy ${button.dataset.what}`);
    details.append(make('div', { className: 'recipe' }, make('label', { htmlFor: id }, label), button, field));
  }
  $('programs').append(details);
}

$('token-hint').hidden = !token;
if (!document.hidden) connect();
poll();
