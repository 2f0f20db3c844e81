// As flow.py, on Node's one thread. Usage: flow.js h1|h2|mixed CLIENTS PREFIX TLS-PORT CLEARTEXT-PORT CA
'use strict';
const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const https = require('https');

const [mode, count, prefix, tlsPort, cleartextPort, caFile] = process.argv.slice(2);
const ca = fs.readFileSync(caFile);
const log = [];
let stopping = false;
let flowing = 0;

function overHttp1(module, port) {
  const agent = new module.Agent({ keepAlive: true, maxSockets: 1, ca });
  return (method, path, body) => new Promise((resolve, reject) => {
    const request = module.request({ host: 'localhost', port, agent, method, path, family: 4 }, (answer) => {
      const localPort = answer.socket.localPort;
      let size = 0;
      answer.on('data', (data) => { size += data.length; });
      answer.on('end', () => resolve({ status: answer.statusCode, size, local_port: localPort }));
    });
    request.on('error', reject);
    request.end(body);
  });
}

function overHttp2(port) {
  const session = http2.connect(`https://localhost:${port}`, { ca, family: 4 });
  session.on('error', (error) => { throw error; });
  const send = (method, path, body) => new Promise((resolve, reject) => {
    const stream = session.request({ ':method': method, ':path': path }, { endStream: body.length === 0 });
    let status = 0;
    let size = 0;
    stream.on('response', (headers) => { status = headers[':status']; });
    stream.on('data', (data) => { size += data.length; });
    stream.on('end', () => resolve({ status, size, local_port: session.socket.localPort }));
    stream.on('error', reject);
    if (body.length > 0) stream.end(body);
  });
  send.close = () => session.close();
  return send;
}

async function flow(client) {
  const ways = { h1: [['tls', overHttp1(https, tlsPort)]], h2: [['tls', mode === 'h2' && overHttp2(tlsPort)]] };
  ways.mixed = [['cleartext', overHttp1(http, cleartextPort)], ...ways.h1];
  for (let i = 0; !stopping || i < 2; i++) {
    const [scheme, send] = ways[mode][i % ways[mode].length];
    const path = `${prefix}/${scheme}/${client}/${i}`;
    const [method, sent] = i % 3 ? ['GET', 0] : ['POST', 100 + i];
    const began = Date.now() / 1000;
    const answer = await send(method, path, 'b'.repeat(sent));
    log.push({ path, began, ended: Date.now() / 1000, method, sent, ...answer });
    if (i === 1 && ++flowing === Number(count)) console.log('flowing');
    await new Promise((resolve) => { setTimeout(resolve, 20); });
  }
  for (const [, send] of ways[mode]) if (send.close) send.close();
}

process.stdin.on('end', () => { stopping = true; }).resume();
Promise.all([...Array(Number(count)).keys()].map(flow)).then(() => {
  process.stdout.write(log.map((entry) => `${JSON.stringify(entry)}\n`).join(''), () => process.exit(0));
});
