// Usage: transfer.js h1|h2 CA HOST PORT [PUT:/path=FILE | GET:/path]...     as transfer.py; Node's TLS has memory BIOs.
'use strict';
const crypto = require('crypto');
const { once } = require('events');
const fs = require('fs');
const [way, ca, host, port, ...requests] = process.argv.slice(2);
const trusted = { ca: fs.readFileSync(ca) };

const ways = {
  h1: {
    open: () => new (require('https').Agent)({ keepAlive: true, maxSockets: 1, ...trusted }),
    close: (agent) => agent.destroy(),
    async answer(agent, method, path, content) {
      const headers = { 'content-length': content.length };
      const request = require('https').request({ host, port, path, method, agent, headers });
      request.end(content);
      const [answer] = await once(request, 'response');
      return [answer.statusCode, answer];
    },
  },
  h2: {
    open: () => require('http2').connect(`https://${host}:${port}`, trusted),
    close: (session) => session.close(),
    async answer(session, method, path, content) {
      const head = { ':method': method, ':path': path, 'content-length': content.length };
      const stream = session.request(head, { endStream: content.length === 0 });
      if (content.length) stream.end(content);
      const [answer] = await once(stream, 'response');
      return [answer[':status'], stream];
    },
  },
};

async function transfer(connection, text) {
  const colon = text.indexOf(':');
  const method = text.slice(0, colon);
  const [path, file] = text.slice(colon + 1).split('=');
  const content = file ? fs.readFileSync(file) : Buffer.alloc(0);
  const [status, answer] = await ways[way].answer(connection, method, path, content);
  const hash = crypto.createHash('sha256');
  let size = 0;
  for await (const piece of answer) {
    hash.update(piece);
    size += piece.length;
  }
  console.log(JSON.stringify({ method, path, status, size, sha256: hash.digest('hex') }));
}

async function main() {
  const connection = ways[way].open();
  for (const request of requests) await transfer(connection, request);
  ways[way].close(connection);
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
