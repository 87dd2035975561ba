// Search in pages that are opened as files: a browser starts no worker there, so its script runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      frame.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      frame.srcdoc = `<script>
        window.postMessage = (data) => frameElement.answer(data);
        window.importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done, fail) => {
          const script = Object.assign(document.createElement("script"), { src: url, onload: done, onerror: fail });
          document.head.appendChild(script);
        })), Promise.resolve());
      </` + `script><script src="${url}"></` + `script>`;
      this.ready = new Promise((done) => frame.addEventListener("load", () => done(frame.contentWindow)));
      document.body.appendChild(frame);
    }
    postMessage(data) {
      this.ready.then((inside) => inside.dispatchEvent(new inside.MessageEvent("message", { data })));
    }
    terminate() {}
  };
}
