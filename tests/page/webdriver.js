// A W3C WebDriver client for three engines: Chromium and WebKitGTK by their drivers over HTTP, Firefox by Marionette,
// its own socket, on which the same commands are sent (geckodriver, which only translates, is not in Debian).
'use strict';

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');

const { eventually, giveUp } = require('./support.js');

const ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'; // the standard's key of an element's id
const SIZE = { width: 1280, height: 900 };

const COMMANDS = {
  ElementClick: ['POST', '/element/{id}/click'],
  ElementSendKeys: ['POST', '/element/{id}/value'],
  ExecuteAsyncScript: ['POST', '/execute/async'],
  FindElement: ['POST', '/element'],
  Navigate: ['POST', '/url'],
  SetTimeouts: ['POST', '/timeouts'],
  SetWindowRect: ['POST', '/window/rect'],
  TakeScreenshot: ['GET', '/screenshot'],
};

// The first file that exists; `*` stands for one folder's name, such as the machine's architecture.
function installed(...patterns) {
  for (const pattern of patterns) {
    const [before, after] = pattern.split('*');
    const names = after ? fs.readdirSync(before).map((name) => before + name + after) : [before];
    const found = names.find((name) => fs.existsSync(name));
    if (found) return found;
  }
  return giveUp(`not installed: ${patterns.join(' or ')}`);
}

class Engine {
  constructor(name, folder) {
    this.name = name;
    this.folder = path.join(folder, name);
    fs.mkdirSync(this.folder);
    this.processes = [];
  }

  run(command, args, environment = {}, stdio = ['ignore', 'ignore', 'ignore']) {
    const child = spawn(command, args, { stdio, env: { ...process.env, HOME: this.folder, ...environment } });
    this.processes.push(child);
    return child;
  }

  // Starts a driver on a free port, and a session in it.
  async byHttp(driver, capabilities, environment = {}) {
    const port = await freePort();
    this.run(driver, [`--port=${port}`], environment);
    const url = `http://127.0.0.1:${port}`;
    const post = async (method, place, body) => {
      const response = await fetch(url + place, { method, body: method === 'POST' ? JSON.stringify(body) : undefined });
      const { value } = await response.json();
      if (value && value.error) throw new Error(`${this.name}: ${value.error}: ${value.message}`);
      return value;
    };
    await eventually(`${driver} listens`, () => fetch(`${url}/status`).then((response) => response.ok, () => false));
    const session = await post('POST', '/session', { capabilities: { alwaysMatch: capabilities } });
    this.version = `${session.capabilities.browserName} ${session.capabilities.browserVersion}`;
    this.send = (name, parameters) => {
      const [method, place] = COMMANDS[name];
      return post(method, `/session/${session.sessionId}${place.replace('{id}', parameters.id)}`, parameters);
    };
    this.end = () => fetch(`${url}/session/${session.sessionId}`, { method: 'DELETE' });
  }

  async byMarionette(binary) {
    const preferences = ['"marionette.port", 0', '"browser.shell.checkDefaultBrowser", false',
      '"datareporting.policy.dataSubmissionEnabled", false', '"app.update.enabled", false'];
    fs.writeFileSync(path.join(this.folder, 'user.js'), preferences.map((one) => `user_pref(${one});\n`).join(''));
    this.run(binary, ['--headless', '--no-remote', '--marionette', '--profile', this.folder]);
    const port = path.join(this.folder, 'MarionetteActivePort');
    await eventually('Firefox listens', () => fs.existsSync(port) && fs.readFileSync(port, 'utf8'), 60000);
    const socket = net.connect(Number(fs.readFileSync(port, 'utf8')), '127.0.0.1');
    const waiting = new Map();
    let [pending, number] = [Buffer.alloc(0), 0];
    socket.on('data', (data) => {
      pending = Buffer.concat([pending, data]);
      for (let colon; (colon = pending.indexOf(':')) > 0;) {
        const end = colon + 1 + Number(pending.subarray(0, colon));
        if (pending.length < end) return;
        const message = JSON.parse(pending.subarray(colon + 1, end));
        pending = pending.subarray(end);
        if (!Array.isArray(message)) continue; // its greeting
        const [, id, error, result] = message;
        const { resolve, reject } = waiting.get(id);
        waiting.delete(id);
        if (error) reject(new Error(`${this.name}: ${error.error}: ${error.message}`));
        else resolve(result && 'value' in result ? result.value : result);
      }
    });
    socket.on('close', () => waiting.forEach(({ reject }) => reject(new Error('Firefox ended'))));
    const send = (name, parameters) => new Promise((resolve, reject) => {
      const text = Buffer.from(JSON.stringify([0, (number += 1), name, parameters]));
      waiting.set(number, { resolve, reject });
      socket.write(Buffer.concat([Buffer.from(`${text.length}:`), text]));
    });
    this.send = (name, parameters) => send(`WebDriver:${name}`, parameters);
    const { capabilities } = await this.send('NewSession', {});
    this.version = `${capabilities.browserName} ${capabilities.browserVersion}`;
    this.end = () => send('Marionette:Quit', { flags: ['eForceQuit'] });
  }

  async start() {
    if (this.name === 'firefox') {
      await this.byMarionette(installed('/usr/bin/firefox-esr', '/usr/bin/firefox'));
    } else if (this.name === 'webkit') {
      // MiniBrowser has no mode without a screen.
      const screen = this.run('Xvfb', ['-displayfd', '3', '-screen', '0', '1400x1000x24', '-nolisten', 'tcp'], {},
        ['ignore', 'ignore', 'ignore', 'pipe']);
      let display = '';
      screen.stdio[3].on('data', (text) => (display += text));
      await eventually('Xvfb runs', () => display.endsWith('\n'));
      const binary = installed('/usr/lib/*/webkit2gtk-4.1/MiniBrowser', '/usr/lib/*/webkit2gtk-4.0/MiniBrowser');
      await this.byHttp(installed('/usr/bin/WebKitWebDriver'),
        { 'webkitgtk:browserOptions': { binary, args: ['--automation'] } },
        { DISPLAY: `:${display.trim()}`, WEBKIT_DISABLE_SANDBOX_THIS_IS_DANGEROUS: '1', LIBGL_ALWAYS_SOFTWARE: '1' });
    } else {
      const binary = installed('/usr/bin/chromium', '/usr/bin/chromium-browser');
      const args = ['--headless=new', '--no-sandbox', '--disable-gpu', `--user-data-dir=${this.folder}`];
      await this.byHttp(installed('/usr/bin/chromedriver'), { 'goog:chromeOptions': { binary, args } });
    }
    await this.send('SetWindowRect', { x: 0, y: 0, ...SIZE });
    await this.send('SetTimeouts', { script: 30000 });
  }

  go(url) {
    return this.send('Navigate', { url });
  }

  // Runs a function in the page, to its end if it is asynchronous; its parameters are given as values.
  async evaluate(run, ...args) {
    const script = `const [done, ...args] = [...arguments].reverse();
      (async () => ({ value: await (${run})(...args.reverse()) }))().then(done, (error) => done({ error: String(error) }));`;
    const { value, error } = await this.send('ExecuteAsyncScript', { script, args });
    if (error) throw new Error(`${this.name}: ${error}`);
    return value;
  }

  async element(selector) {
    return (await this.send('FindElement', { using: 'css selector', value: selector }))[ELEMENT];
  }

  async click(selector) {
    await this.send('ElementClick', { id: await this.element(selector) });
  }

  async type(selector, text) {
    await this.send('ElementSendKeys', { id: await this.element(selector), text, value: [...text] });
  }

  text(selector) {
    return this.evaluate((wanted) => document.querySelector(wanted).textContent, selector);
  }

  async screenshot(file) {
    fs.writeFileSync(file, Buffer.from(await this.send('TakeScreenshot', { full: false }), 'base64'));
  }

  async stop() {
    if (this.end) await this.end().catch(() => {});
    for (const child of this.processes.reverse()) {
      if (child.exitCode === null) child.kill('SIGTERM');
    }
  }
}

function freePort() {
  return new Promise((resolve) => {
    const probe = net.createServer().listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

module.exports = { Engine, SIZE };
