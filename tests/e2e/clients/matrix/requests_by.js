// Usage: requests_by.js https|fetch|http2 BASE CA COUNT; fetch takes the CA from NODE_EXTRA_CA_CERTS, and so do
// the others with CA "-".
'use strict';
const fs = require('fs');
const [way, base, caFile, countText] = process.argv.slice(2);
const ca = caFile === '-' ? undefined : fs.readFileSync(caFile);
const count = Number(countText);
const { hostname, port, pathname } = new URL(base);
const method = (i) => (i % 2 ? 'POST' : 'GET');
const body = (i) => (i % 2 ? 'b'.repeat(i) : undefined);

function byHttps(i, agent) {
  const https = require('https');
  return new Promise((done, failed) => {
    const options = { hostname, port, path: `${pathname}/${i}`, method: method(i), ca, agent };
    const request = https.request(options, (answer) => answer.on('data', () => {}).on('end', done));
    request.on('error', failed);
    request.end(body(i));
  });
}

async function byFetch(i, kept) {
  const headers = kept ? {} : { connection: 'close' };
  const answer = await fetch(`${base}/${i}`, { method: method(i), body: body(i), headers });
  await answer.text();
}

function connectHttp2() {
  return require('http2').connect(base, { ca });
}

function byHttp2(i, session) {
  return new Promise((done, failed) => {
    const stream = session.request({ ':method': method(i), ':path': `${pathname}/${i}` });
    stream.on('error', failed).on('data', () => {}).on('end', done);
    stream.end(body(i));
  });
}

async function main() {
  const { Agent } = require('https');
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const session = way === 'http2' ? connectHttp2() : null;
  for (let i = 0; i < count; i++) {
    const kept = i < count / 2;
    if (way === 'https') await byHttps(i, kept ? agent : new Agent());
    if (way === 'fetch') await byFetch(i, kept);
    if (way === 'http2') {
      const own = kept ? session : connectHttp2();
      await byHttp2(i, own);
      if (!kept) own.close();
    }
  }
  agent.destroy();
  if (session) session.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
