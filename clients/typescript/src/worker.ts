import type { AgentFunction, AgentOptions, Claim } from "./agent.js";
import { Attempt } from "./attempt.js";
import { type ClientOptions, Connection, segment, sleep } from "./connection.js";
import { ApiError, Unavailable } from "./errors.js";
import type { components } from "./openapi.js";

type Schemas = components["schemas"];

export interface WorkerOptions extends ClientOptions {
  /** Messages at once, 1 to 1000. Default: 10. */
  concurrency?: number;
  /** How long `stop` lets running messages end before they are given back. Default: 30. */
  graceSeconds?: number;
  /** Receives one line for each thing that went wrong. Default: console.warn. */
  log?: (line: string) => void;
}

const CLAIM_WAIT = 30;
const RETRY = 1000;

/**
 * Runs agents in this program, for the tenant of its key. One process is one worker: keep the event loop free, because
 * heartbeats are sent from it.
 *
 *     await new Worker({ shout: async (context, text) => text.toUpperCase() }).run();
 */
export class Worker {
  readonly #agents: Map<string, AgentOptions>;
  readonly #connection: Connection;
  readonly #options: Required<Pick<WorkerOptions, "concurrency" | "graceSeconds" | "log">>;
  readonly #attempts = new Map<string, Attempt>();
  #claiming = new AbortController(); // of the claim under way
  /** Resolves when the server knows the worker and its agents; rejects if `run` does. */
  readonly registered: Promise<void>;
  #tellRegistered: (failure?: unknown) => void = () => {};
  #registration: Schemas["RegisteredWorker"] | undefined;
  #changed: () => void = () => {};
  #stopping = false;

  constructor(agents: Record<string, AgentFunction | AgentOptions>, options: WorkerOptions = {}) {
    this.#agents = new Map(
      Object.entries(agents).map(([name, agent]) => [name, typeof agent === "function" ? { run: agent } : agent]),
    );
    // A call is repeated here and not in the connection: meanwhile the lease may be lost.
    this.#connection = new Connection({ ...options, repeatSeconds: 5 });
    this.#options = {
      concurrency: options.concurrency ?? 10,
      graceSeconds: options.graceSeconds ?? 30,
      log: options.log ?? ((line) => console.warn(line)),
    };
    this.registered = new Promise((resolve, reject) => {
      this.#tellRegistered = (failure) => (failure === undefined ? resolve() : reject(failure));
    });
    this.registered.catch(() => {}); // `run` rejects, too
  }

  /** The id under which the server knows this worker; undefined before it has registered. */
  get workerId(): string | undefined {
    return this.#registration?.worker_id;
  }

  /** Work until `stop` is called. Rejects if the server refuses the worker. */
  async run(): Promise<void> {
    const beating = this.#beat();
    try {
      while (!this.#stopping) await this.#claim();
      await this.#drain();
    } catch (error) {
      this.#tellRegistered(error);
      throw error;
    } finally {
      this.#stopping = true;
      this.#claiming.abort();
      await beating;
      if (this.#registration) {
        await this.#connection.send("DELETE", this.#path("")).catch((error) => this.#options.log(`sign off: ${error}`));
      }
    }
  }

  /** Claim no more, and let what runs end. The second call gives it back at once. */
  stop(): void {
    if (this.#stopping) for (const attempt of this.#attempts.values()) attempt.stop("released");
    this.#stopping = true;
    this.#claiming.abort();
    this.#changed();
  }

  async #claim(): Promise<void> {
    const { signal } = this.#claiming;
    let workerId: string | undefined;
    try {
      this.#registration ??= await this.#register();
      workerId = this.#registration.worker_id;
      this.#tellRegistered();
      const room = this.#options.concurrency - this.#attempts.size;
      if (room <= 0) {
        await new Promise<void>((resolve) => (this.#changed = resolve));
        return;
      }
      const body = { quantity: Math.min(room, 100), wait: CLAIM_WAIT };
      const path = this.#path("/claim");
      const claims = await this.#connection.call<Schemas["ClaimedMessages"]>("POST", path, { body, signal });
      for (const claim of claims.messages) this.#start(claim, workerId);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.status === 404) this.#expire(workerId);
      else if (error instanceof Unavailable || (error instanceof ApiError && [409, 429].includes(error.status))) {
        this.#options.log(`claim: ${error.message}`);
        await sleep(RETRY, signal).catch(() => {});
      } else throw error;
    }
  }

  #register(): Promise<Schemas["RegisteredWorker"]> {
    const agents = [...this.#agents].map(([agent, { run: _, ...declared }]) => ({ agent, ...declared }));
    return this.#connection.call("POST", "/workers", { body: { agents, concurrency: this.#options.concurrency } });
  }

  #start(claim: Claim, workerId: string): void {
    const agent = this.#agents.get(claim.agent);
    if (!agent) return; // it is not named in heartbeats, so the server gives it to another worker
    const attempt = new Attempt(claim, agent, this.#connection, workerId);
    this.#attempts.set(claim.message_id, attempt);
    attempt
      .run()
      .catch((error) => this.#options.log(`${claim.message_id}: ${error}`))
      .finally(() => {
        if (this.#attempts.get(claim.message_id) === attempt) this.#attempts.delete(claim.message_id);
        this.#changed();
      });
  }

  /** Heartbeats until the worker has stopped. */
  async #beat(): Promise<void> {
    let beganAt = Date.now();
    while (!this.#stopping || this.#attempts.size > 0) {
      const seconds = this.#registration?.heartbeat_seconds ?? 0.1;
      const passed = Date.now() - beganAt;
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, seconds * 1000 - passed)));
      beganAt = Date.now();
      if (!this.#registration) continue;
      const { worker_id: workerId, silence_seconds: silence } = this.#registration;
      const leases = [...this.#attempts.values()].map((attempt) => attempt.lease);
      try {
        // Where the network drops packets, the next one goes over a new connection before the worker counts as dead.
        const call = { body: { leases }, signal: AbortSignal.timeout(Math.ceil((silence * 1000) / 3)) };
        const answer = await this.#connection.call<Schemas["Verdicts"]>("POST", this.#path("/heartbeat"), call);
        for (const { message_id: id, lease, verdict } of answer.verdicts) {
          const attempt = this.#attempts.get(id);
          if (attempt?.lease.lease === lease) attempt.stop(verdict);
        }
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) this.#expire(workerId);
        else this.#options.log(`heartbeat: ${error}`);
      }
    }
  }

  /** The server has taken the worker for dead: what it holds is lost, no claim is answered, and it registers again. */
  #expire(workerId: string | undefined): void {
    if (!this.#registration || this.workerId !== workerId) return;
    this.#options.log(`worker ${this.workerId} was taken for dead; it registers again`);
    this.#registration = undefined;
    this.#claiming.abort();
    this.#claiming = new AbortController();
    for (const attempt of this.#attempts.values()) attempt.stop("lost");
  }

  async #drain(): Promise<void> {
    const until = Date.now() + this.#options.graceSeconds * 1000;
    const timer = setTimeout(() => this.stop(), Math.max(0, until - Date.now()));
    while (this.#attempts.size > 0) await new Promise<void>((resolve) => (this.#changed = resolve));
    clearTimeout(timer);
  }

  #path(rest: string): string {
    return `/workers/${segment(this.#registration?.worker_id ?? "none")}${rest}`;
  }
}
