// Usage: client.js PORT STEP... An HTTP/2 client that speaks nothing else, through the proxy that the environment names.
// Each step is one request or more over the same connection, and prints a line of JSON.
'use strict';
const fs = require('fs');
const http = require('http');
const http2 = require('http2');
const tls = require('tls');
const [port, ...steps] = process.argv.slice(2);
const authority = `localhost:${port}`;
const tell = (what) => process.stdout.write(JSON.stringify(what) + '\n');

function connect() {
  const proxy = new URL(process.env.https_proxy || process.env.HTTPS_PROXY);
  return new Promise((done, failed) => {
    const request = http.request({ host: proxy.hostname, port: proxy.port, method: 'CONNECT', path: authority });
    request.on('error', failed).on('connect', (answer, socket) => {
      const ca = fs.readFileSync(process.env.SSL_CERT_FILE);
      const secure = tls.connect({ socket, servername: 'localhost', ALPNProtocols: ['h2'], ca });
      secure.on('error', failed).on('secureConnect', () => {
        const session = http2.connect(`https://${authority}`, { createConnection: () => secure });
        session.on('error', (error) => tell({ session: error.code }));
        done(session);
      });
    }).end();
  });
}

// One exchange: what was answered, and when each piece came.
function exchange(session, head, body, trailers) {
  return new Promise((done) => {
    const got = { path: head[':path'], hints: [], text: '', size: 0 };
    const stream = session.request(head, { waitForTrailers: !!trailers, endStream: body === undefined });
    got.stream = stream;
    stream.on('headers', (hint) => got.hints.push(hint[':status']));
    stream.on('response', (answer, flags, raw) => Object.assign(got, { status: answer[':status'], head: raw }));
    stream.on('trailers', (late) => (got.trailers = { ...late }));
    stream.on('data', (piece) => {
      got.size += piece.length;
      if (got.size < 100000) got.text += piece;
      stream.emit('piece');
    });
    stream.on('error', () => {});
    stream.on('close', () => done({ ...got, stream: undefined, id: stream.id, code: stream.rstCode }));
    if (trailers) stream.on('wantTrailers', () => stream.sendTrailers(trailers));
    if (body instanceof Function) body(stream);
    else if (body !== undefined) stream.end(body);
  });
}

const get = (path, more = {}) => ({ ':path': path, ...more });
const once = (emitter, event) => new Promise((done) => emitter.once(event, done));

const doings = {
  get: async (session, path) => tell(await exchange(session, get(path))),
  head: async (session, path) => tell(await exchange(session, get(path, { ':method': 'HEAD' }))),
  // Repeats, an empty value, crumbs of a cookie, a field that must not be indexed, trailers.
  post: async (session, path) => {
    const head = get(path, { ':method': 'POST', 'x-many': ['b', 'a', 'b'], 'x-none': '', te: 'trailers', cookie: ['a=1', 'b=2'],
      'content-type': 'application/grpc', [http2.sensitiveHeaders]: ['x-many'] });
    tell(await exchange(session, head, 'x'.repeat(100000), { 'x-end': 'of request' }));
  },
  // Each piece is sent when the one before has come back.
  echo: async (session) => {
    const order = [];
    const talk = async (stream) => {
      for (const piece of ['one', 'two', 'three']) {
        stream.write(piece);
        order.push('sent');
        await once(stream, 'piece');
        order.push('got');
      }
      stream.end();
    };
    tell({ ...await exchange(session, get('/echo', { ':method': 'POST' }), talk), order });
  },
  // An extended CONNECT, where the first settings allow it (RFC 8441); to be the first step.
  connect: async (session) => {
    const { enableConnectProtocol } = await once(session, 'remoteSettings');
    if (!enableConnectProtocol) return tell({ allowed: false });
    const head = { ':method': 'CONNECT', ':protocol': 'websocket', ':path': '/socket', ':scheme': 'https', ':authority': authority };
    tell({ allowed: true, ...await exchange(session, head, async (stream) => {
      stream.write('ping');
      await once(stream, 'piece');
      stream.end('pong');
    }) });
  },
  // Stays in the middle of a response until it is killed.
  hang: async (session) => {
    const stream = session.request(get('/events'));
    await once(stream, 'data');
    tell({ hangs: true });
    await new Promise(() => setInterval(() => {}, 1000));
  },
  events: async (session) => {
    const order = [];
    const first = exchange(session, get('/events'), (stream) => stream.end() && stream.once('piece', async () => {
      order.push('first');
      await exchange(session, get('/go-on'));
    }));
    tell({ ...await first, order });
  },
  many: async (session, count) => {
    const all = await Promise.all([...Array(Number(count)).keys()].map((i) => exchange(session, get(`/many/${i}`))));
    tell({ statuses: [...new Set(all.map((one) => one.status))], ids: new Set(all.map((one) => one.id)).size });
  },
  cancel: async (session) => {
    const one = exchange(session, get('/never', { ':method': 'POST' }), (stream) => {
      stream.write('some');
      setTimeout(() => stream.close(5), 200);
    });
    tell(await one);
  },
  // Reads nothing for a while: how much has the origin got rid of?
  slow: async (session) => {
    const stream = session.request(get('/endless'));
    stream.on('error', () => {});
    await once(stream, 'response');
    await new Promise((done) => setTimeout(done, 500));
    stream.close(8);
    await once(stream, 'close');
    tell({ slow: true });
  },
};

connect().then(async (session) => {
  for (const step of steps) {
    const [name, argument] = step.split('=');
    await doings[name](session, argument);
  }
  session.close();
}).catch((error) => {
  console.error(error);
  process.exit(1);
});
