// A worker that ticks. In a page that nobody looks at, browsers run timers once a minute; in a worker they do not.
setInterval(() => postMessage(null), 5_000);
