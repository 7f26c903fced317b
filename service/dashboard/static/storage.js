// What this page keeps in localStorage, and where the service is.

/** The root of the service: this page is served at /chat. */
export const serviceUrl = new URL("..", import.meta.url);

const PREFIX = "treadle.";

// localStorage may be full or forbidden. The page then works without it, but forgets its state on a reload.
export const storage = {
  read(name, fallback = null) {
    try {
      return JSON.parse(localStorage.getItem(PREFIX + name)) ?? fallback;
    } catch {
      return fallback;
    }
  },
  write(name, value) {
    try {
      localStorage.setItem(PREFIX + name, JSON.stringify(value));
    } catch { /* see above */ }
  },
  remove(name) {
    try {
      localStorage.removeItem(PREFIX + name);
    } catch { /* see above */ }
  },
  /** The rests of the names that begin so. */
  namesAfter(prefix) {
    try {
      return Object.keys(localStorage).filter((name) => name.startsWith(PREFIX + prefix)).map((name) => name.slice(PREFIX.length + prefix.length));
    } catch {
      return [];
    }
  },
};

/**
 * The inputs of a thread that the server has not acknowledged, by their key. They survive a reload of the page. Each is
 * stored under a name of its own, because several tabs can show the same thread.
 */
export class PendingInputs {
  constructor(thread) {
    this.prefix = `pending.${thread}/`; // the name of a thread has no slash
    const stored = storage.namesAfter(this.prefix).map((key) => [key, storage.read(this.prefix + key, {})]);
    this.inputs = new Map(stored.filter(([, { input }]) => input).sort(([, a], [, b]) => a.at - b.at).map(([key, { input }]) => [key, input]));
  }

  get size() {
    return this.inputs.size;
  }

  entries() {
    return [...this.inputs];
  }

  get(key) {
    return this.inputs.get(key);
  }

  add(key, input) {
    this.inputs.set(key, input);
    storage.write(this.prefix + key, { at: performance.timeOrigin + performance.now(), input });
  }

  /** Returns whether there was such an input. */
  remove(key) {
    storage.remove(this.prefix + key);
    return this.inputs.delete(key);
  }
}
