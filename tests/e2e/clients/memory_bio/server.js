// A TLS server that asks another one for each request that it is asked:
//   /relay/NAME/N   asks ORIGIN for /NAME/N
//   /self/NAME/N    asks itself for /leaf/NAME/N
//   /leaf/...       asks nobody
// An even N goes over a kept connection, an odd one over one of its own; the last two of four are POSTs with N bytes.
// Prints {"port"} when it listens, then for each request of its own what it asked, and from which port of its own:
// {"path","local_port"}; for each that it was asked {"asked","peer_port"}.
// Usage: server.js CERTIFICATE KEY CA ORIGIN
'use strict';
const fs = require('fs');
const https = require('https');
const [certificate, key, caFile, origin] = process.argv.slice(2);
const ca = fs.readFileSync(caFile);
const kept = new https.Agent({ keepAlive: true, maxSockets: 20, ca });
let own;

function say(what) {
  fs.writeSync(1, JSON.stringify(what) + '\n');
}

function ask(base, path, number, answered) {
  const { hostname, port } = new URL(base);
  const posts = number % 4 > 1;
  const agent = number % 2 ? new https.Agent({ ca }) : kept;
  const request = https.request({ hostname, port, path, agent, method: posts ? 'POST' : 'GET' }, (answer) => {
    say({ path, local_port: request.socket.localPort });
    answer.on('data', () => {}).on('end', () => answered(answer.statusCode));
  });
  request.on('error', () => answered(502));
  request.end(posts ? 'b'.repeat(number) : undefined);
}

function serve(request, response) {
  say({ asked: request.url, peer_port: request.socket.remotePort });
  const [, what, name, number] = request.url.split('/');
  const answer = (status) => response.writeHead(status).end(`this is ${request.url}\n`);
  request.resume();
  if (what === 'relay') ask(origin, `/${name}/${number}`, Number(number), answer);
  else if (what === 'self') ask(own, `/leaf/${name}/${number}`, Number(number), answer);
  else answer(200);
}

const server = https.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }, serve);
server.keepAliveTimeout = 0; // an idle client must not meet the connection's end
server.listen({ port: 0, host: '127.0.0.1', backlog: 1000 }, () => {
  own = `https://localhost:${server.address().port}`;
  say({ port: server.address().port });
});
