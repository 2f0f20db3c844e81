// As flood_client.py, over HTTP/2. Usage: flood_client.js HOST PORT CA
'use strict';
const fs = require('fs');
const tls = require('tls');
const http2 = require('http2');
const crypto = require('crypto');
const readline = require('readline');
const [host, port, ca] = process.argv.slice(2);

function exchange(session, [method, path, size]) {
  return new Promise((done, failed) => {
    const stream = session.request({ ':method': method, ':path': path });
    stream.on('response', (fields) => {
      if (fields[':status'] >= 300) failed(new Error(`${path}: ${fields[':status']}`));
    });
    stream.on('error', failed).on('data', () => {}).on('end', done);
    stream.end(size ? crypto.randomBytes(Number(size)) : undefined);
  });
}

async function main() {
  const socket = tls.connect({ host, port, ca: fs.readFileSync(ca), servername: host, ALPNProtocols: ['h2'] });
  await new Promise((done, failed) => socket.on('secureConnect', done).on('error', failed));
  // The library's own counts; those of the socket leave out what HTTP/2 writes below it.
  const handle = socket._handle;
  const session = http2.connect(`https://${host}:${port}`, { createConnection: () => socket });
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const requests = line.split(' ').map((request) => request.split(':'));
    for (const request of requests) await exchange(session, request);
    console.log(requests.length);
  }
  let sent = 0, received = 0;
  const count = () => {
    sent = Math.max(sent, handle.bytesWritten || 0);
    received = Math.max(received, handle.bytesRead || 0);
  };
  count();
  const closed = new Promise((done) => socket.on('close', done));
  session.close();
  session.on('close', count);
  await closed;
  count();
  console.log(JSON.stringify({ pid: process.pid, sent, received }));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
