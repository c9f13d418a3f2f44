// The worker of ticker.ts. It is sent as it is.
setInterval(() => postMessage(null), 1000);
