/** Keeps what this page has loaded, so that it works without a network; with one, what is newer on the server wins. */

const CACHE = "blip";
const PAGE = [
  "./",
  "style.css",
  "icon.svg",
  "page.js",
  "worker.js",
  "blip.js",
  "folders.js",
  "pictures.js",
  "resize.js",
  "search.js",
  "session.js",
  "tokenizer.js",
];

self.addEventListener("install", (event) => {
  event.waitUntil(
    caches
      .open(CACHE)
      .then((cache) => cache.addAll(PAGE))
      .then(() => self.skipWaiting()),
  );
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(self.registration.scope)) event.respondWith(answer(event));
});

async function answer(event) {
  const { request } = event;
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(request, { cache: "no-cache" }); // asks the server whether its file is newer
    if (response.ok) event.waitUntil(cache.put(request, response.clone()).catch(() => {})); // the disk may be full
    return response;
  } catch (error) {
    const kept = await cache.match(request, { ignoreSearch: request.mode === "navigate" });
    if (kept) return kept;
    throw error;
  }
}
