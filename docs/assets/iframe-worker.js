// Pages opened as files: browsers start no web worker from a file, and the search runs in one.
// A hidden iframe takes its place. As with a worker, messages are copied.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.frame = frame;
      this.scope = frame.contentWindow;
      this.scope.postMessage = (data) => this.receive(structuredClone(data));
      this.started = new Promise((resolve, reject) => {
        const script = frame.contentDocument.createElement("script");
        script.src = url;
        script.onload = resolve;
        script.onerror = reject;
        frame.contentDocument.body.append(script);
      });
    }

    async receive(data) {
      await this.started;
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      this.onmessage?.(event);
    }

    async postMessage(data) {
      const copy = structuredClone(data);
      await this.started;
      this.scope.dispatchEvent(new this.scope.MessageEvent("message", { data: copy }));
    }

    terminate() {
      this.frame.remove();
    }
  };
}
