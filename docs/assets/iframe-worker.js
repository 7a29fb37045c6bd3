// Pages opened as files: browsers start no web worker from a file, and the search runs in one.
// A hidden iframe takes its place.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.scope = frame.contentWindow;
      this.scope.postMessage = (data) => this.receive(data);
      this.scope.importScripts = () => {};
      this.started = new Promise((resolve, reject) => {
        const script = frame.contentDocument.createElement("script");
        script.src = url;
        script.onload = resolve;
        script.onerror = reject;
        frame.contentDocument.body.append(script);
      });
    }

    receive(data) {
      const event = new MessageEvent("message", { data });
      this.dispatchEvent(event);
      this.onmessage?.(event);
    }

    async postMessage(data) {
      await this.started;
      const event = new this.scope.MessageEvent("message", { data });
      this.scope.dispatchEvent(event);
    }

    terminate() {
      this.scope.frameElement.remove();
    }
  };
}
