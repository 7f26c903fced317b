// What this page keeps in localStorage, and where the service is.

/** The root of the service: this page is served at /chat. */
export const serviceUrl = new URL("..", import.meta.url);

// localStorage may be full or forbidden. The page then works without it, but forgets its state on a reload.
export const storage = {
  read(name, fallback = null) {
    try {
      return JSON.parse(localStorage.getItem(`treadle.${name}`)) ?? fallback;
    } catch {
      return fallback;
    }
  },
  write(name, value) {
    try {
      localStorage.setItem(`treadle.${name}`, JSON.stringify(value));
    } catch { /* see above */ }
  },
};

/** The inputs of a thread that the server has not acknowledged, by their key. They survive a reload of the page. */
export class PendingInputs {
  constructor(thread) {
    this.name = `pending.${thread}`;
    this.inputs = new Map(Object.entries(storage.read(this.name, {})));
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

  get newestKey() {
    return [...this.inputs.keys()].pop();
  }

  add(key, input) {
    this.inputs.set(key, input);
    this.save();
  }

  /** Returns whether there was such an input. */
  remove(key) {
    const found = this.inputs.delete(key);
    if (found) this.save();
    return found;
  }

  save() {
    storage.write(this.name, this.inputs.size ? Object.fromEntries(this.inputs) : null);
  }
}
