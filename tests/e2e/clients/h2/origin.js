// Usage: origin.js h2|h1 CERTIFICATE KEY. An origin for what nginx can't do; prints its port, then a line of JSON for
// each request it got. It ends with its standard input.
'use strict';
const fs = require('fs');
const [way, cert, key] = process.argv.slice(2);
const tell = (what) => process.stdout.write(JSON.stringify(what) + '\n');
const options = { cert: fs.readFileSync(cert), key: fs.readFileSync(key) };

// The head as it came, names and values in turn, and how the request ended.
function record(stream, head, raw, trailers) {
  const told = { path: head[':path'], head: raw, size: 0 };
  stream.on('data', (piece) => (told.size += piece.length));
  stream.on('end', () => tell({ ...told, ended: true, trailers: trailers() }));
  stream.on('aborted', () => tell({ ...told, aborted: stream.rstCode }));
  stream.on('error', () => {});
}

function respond(stream, head, send, given) {
  const path = head[':path'].split('?')[0];
  if (head[':protocol'] === 'websocket') {
    send(200, {});
    stream.pipe(stream);
  } else if (path === '/echo') {
    send(200, { 'x-twice': ['1', '2'], 'x-empty': '' }, { 'grpc-status': '0', 'x-late': 'yes' });
    stream.on('data', (piece) => stream.write(piece));
    stream.on('end', () => stream.end());
  } else if (path === '/events') {
    // The second event waits for the client's next request.
    send(200, { 'content-type': 'text/event-stream' });
    stream.write('data: first\n\n');
    waiting = stream;
  } else if (path === '/go-on') {
    waiting.end('data: second\n\n');
    send(204, {}, null, true);
  } else if (path === '/hints') {
    given.hints();
    send(200, {});
    stream.end('after hints');
  } else if (path === '/reset') {
    given.reset(11);
  } else if (path === '/leave') {
    send(200, {});
    given.leave();
    stream.end('last words');
  } else if (path === '/endless') {
    send(200, {});
    let written = 0;
    const more = () => {
      do written += 65536; while (!stream.destroyed && stream.write(Buffer.alloc(65536)));
    };
    stream.on('close', () => tell({ path: '/endless', written }));
    stream.on('drain', more);
    more();
  } else if (path === '/never') {
    // Neither read nor answered.
  } else {
    send(200, { 'content-length': '5' });
    stream.end(head[':method'] === 'HEAD' ? undefined : 'hello');
  }
}
let waiting = null;

function serveH2() {
  const server = require('http2').createSecureServer({ ...options, settings: { enableConnectProtocol: true } });
  server.on('stream', (stream, head, flags, raw) => {
    let trailers = {};
    stream.on('trailers', (got) => (trailers = got));
    if (head[':path'] === '/endless') return stream.on('error', () => {}) && respond(stream, head, () => stream.respond({ ':status': 200 }), {});
    if (head[':path'] === '/never') return stream.on('error', () => {}).on('aborted', () => tell({ path: '/never', aborted: stream.rstCode }));
    record(stream, head, raw, () => trailers);
    const send = (status, fields, late, end) => {
      stream.respond({ ':status': status, ...fields }, { waitForTrailers: !!late, endStream: !!end });
      if (late) stream.on('wantTrailers', () => stream.sendTrailers(late));
    };
    respond(stream, head, send, {
      hints: () => stream.additionalHeaders({ ':status': 103, link: '</a.css>; rel=preload' }),
      reset: (code) => stream.close(code),
      leave: () => stream.session.goaway(0),
    });
  });
  return server;
}

function serveH1() {
  return require('https').createServer(options, (request, response) => {
    record(request, { ':path': request.url }, request.rawHeaders, () => request.trailers);
    const send = (status, fields, late, end) => {
      if (late) fields = { ...fields, trailer: Object.keys(late).join(', ') };
      response.writeHead(status, fields);
      if (late) request.on('end', () => response.addTrailers(late));
      if (end) response.end();
      response.flushHeaders();
    };
    const stream = new Proxy(response, {
      get: (target, name) => name === 'on' ? (event, action) => (event === 'drain' ? response : request).on(event, action)
        : typeof target[name] === 'function' ? target[name].bind(target) : target[name],
    });
    respond(stream, { ':path': request.url, ':method': request.method }, send, {
      hints: () => response.writeEarlyHints({ link: '</a.css>; rel=preload' }),
      reset: () => request.socket.destroy(),
      leave: () => response.shouldKeepAlive = false,
    });
  });
}

const server = way === 'h2' ? serveH2() : serveH1();
server.on('sessionError', () => {}).on('clientError', () => {});
server.listen(0, '127.0.0.1', () => tell({ port: server.address().port }));
process.stdin.on('end', () => process.exit(0)).resume();
