// framehub with the synthetic camera, for the tests of the page.
'use strict';

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const { eventually, expect } = require('./support.js');

let number = 0;

class Server {
  static binary = ''; // the framehub to test
  static folder = ''; // for its files

  static async start(args = [], secrets = {}) {
    const server = new Server();
    server.args = args;
    server.secrets = secrets;
    server.plug = path.join(Server.folder, `unplugged-${(number += 1)}`);
    server.port = 0;
    await server.start();
    return server;
  }

  // Uses the same port when the server is started again.
  async start() {
    const device = `synthetic:sizes=640x480+1280x720,unplug_file=${this.plug}`;
    const listen = `127.0.0.1:${this.port}`;
    this.process = spawn(Server.binary, ['--device', device, '--listen', listen, ...this.args], {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...this.secrets },
    });
    this.ended = new Promise((resolve) => this.process.once('exit', resolve));
    this.log = '';
    this.process.stderr.on('data', (text) => (this.log += text));
    const [, port] = await eventually('framehub listens', () => {
      expect(this.process.exitCode === null, `framehub ended: ${this.log}`);
      return /listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(this.log);
    });
    this.port = Number(port);
    this.url = `http://127.0.0.1:${port}/`;
  }

  async stop() {
    if (this.process.exitCode === null) this.process.kill('SIGTERM');
    await this.ended;
  }

  unplug() {
    fs.writeFileSync(this.plug, '');
  }

  replug() {
    fs.rmSync(this.plug, { force: true });
  }

  async json(place) {
    const Authorization = `Bearer ${this.secrets.FRAMEHUB_TOKEN}`;
    return (await fetch(this.url + place, { headers: this.secrets.FRAMEHUB_TOKEN ? { Authorization } : {} })).json();
  }

  async viewers() {
    return (await this.json('state')).result.stream.clients;
  }

  // Streams that were opened.
  came() {
    return this.log.split('viewer came').length - 1;
  }

  async control(name) {
    return (await this.json('controls')).find((control) => control.name === name);
  }

  async set(values) {
    expect((await fetch(`${this.url}controls`, { method: 'POST', body: JSON.stringify(values) })).ok, 'controls are set');
  }
}

module.exports = { Server };
