CREATE SCHEMA treadle;
COMMENT ON SCHEMA treadle IS 'A durable queue service for AI agents: start at the views message_overview, thread_overview, queue_overview';
CREATE TYPE treadle.dead_letter_place AS (
	queue text,
	dlq_id bigint,
	dead_at timestamp with time zone
);
CREATE TYPE treadle.delivery AS (
	n integer,
	topic bigint,
	"offset" bigint,
	record_id uuid,
	key text,
	headers jsonb,
	value jsonb,
	schema_id integer,
	wanted boolean,
	filtered boolean,
	traceparent text,
	depth integer
);
CREATE TYPE treadle.ending AS (
	message_id uuid,
	outcome text,
	result jsonb,
	error text,
	traceback text,
	delay_seconds double precision,
	usage jsonb,
	last_seq integer
);
CREATE TYPE treadle.entry AS (
	message_id uuid,
	seq integer,
	thread bigint,
	type text,
	data jsonb,
	tenant text
);
CREATE TYPE treadle.lane_row AS (
	queue text,
	lane text,
	lane_id bigint,
	body jsonb
);
CREATE TYPE treadle.locked_thread AS (
	thread bigint,
	thread_id text,
	owner text,
	agents text[]
);
CREATE TYPE treadle.named_lease AS (
	item integer,
	message_id uuid,
	thread bigint,
	last_seq integer,
	first_seq integer,
	cancel_requested boolean,
	status text,
	tenant text
);
CREATE TYPE treadle.new_record AS (
	n integer,
	record_id uuid,
	key text,
	headers jsonb,
	value jsonb,
	bytes integer,
	schema_id integer,
	problem text,
	traceparent text
);
CREATE TYPE treadle.post AS (
	message_id uuid,
	tenant text,
	webhook uuid,
	url text,
	headers jsonb,
	body jsonb,
	event text,
	source uuid,
	traceparent text,
	config text
);
CREATE TYPE treadle.settlement AS (
	message_id uuid,
	thread bigint,
	queue text,
	old_state text,
	started_at timestamp with time zone,
	attempt integer,
	old_lane text,
	old_lane_id bigint,
	outcome text,
	becomes text,
	state text,
	lane text,
	lane_id bigint,
	seq integer,
	result jsonb,
	error text,
	traceback text,
	delay_seconds double precision,
	usage jsonb,
	failures integer,
	losses integer,
	tenant text,
	subscription bigint,
	dropped boolean,
	agent text,
	ready_at timestamp with time zone,
	first_chunk_at timestamp with time zone,
	callback_url text,
	is_post boolean,
	asked_seq integer
);
CREATE TYPE treadle.submission AS (
	n integer,
	message_id uuid,
	priority text,
	rank smallint,
	agent text,
	queue text,
	thread_id text,
	aside boolean,
	max_attempts integer,
	timeout_seconds double precision,
	run_at timestamp with time zone,
	parent uuid,
	state text,
	refusal_code text,
	refusal text,
	hold text,
	thread bigint,
	ord bigint,
	behind bigint,
	depth integer,
	owner text,
	goes_first boolean,
	max_losses integer,
	turn uuid
);
CREATE TYPE treadle.submit_answer AS (
	n integer,
	message_id uuid,
	state text,
	queue text,
	rank smallint,
	lane text,
	ahead bigint,
	thread bigint,
	thread_id text,
	refusal_code text,
	refusal text,
	moved boolean
);
CREATE TYPE treadle.target_thread AS (
	thread bigint,
	base_ord bigint,
	open bigint,
	turn uuid
);
CREATE TABLE treadle.messages (
    message_id uuid NOT NULL,
    tenant text NOT NULL,
    thread bigint,
    ord bigint,
    aside boolean DEFAULT false NOT NULL,
    queue text NOT NULL,
    lane text,
    lane_id bigint,
    share_place bigint,
    agent text NOT NULL,
    priority text NOT NULL,
    rank smallint NOT NULL,
    state text NOT NULL,
    hold text,
    attempt integer DEFAULT 0 NOT NULL,
    failures integer DEFAULT 0 NOT NULL,
    losses integer DEFAULT 0 NOT NULL,
    max_attempts integer NOT NULL,
    max_losses integer,
    timeout_seconds double precision NOT NULL,
    last_seq integer DEFAULT 1 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    run_at timestamp with time zone NOT NULL,
    started_at timestamp with time zone,
    completed_at timestamp with time zone,
    overloaded_since timestamp with time zone,
    worker_id text,
    parent uuid,
    depth smallint DEFAULT 0 NOT NULL,
    owner text,
    traceparent text,
    schema_id integer,
    body jsonb NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    result jsonb,
    error text,
    usage jsonb,
    subscription bigint,
    record_topic bigint,
    record_offset bigint,
    interrupted boolean DEFAULT false NOT NULL,
    steers boolean DEFAULT false NOT NULL,
    steered_into uuid,
    callback_url text,
    delivery jsonb,
    questions integer[],
    CONSTRAINT messages_depth_check CHECK ((depth >= 0)),
    CONSTRAINT messages_hold CHECK (((hold IS NULL) OR (state = 'queued'::text))),
    CONSTRAINT messages_hold_check CHECK ((hold = ANY (ARRAY['thread'::text, 'delay'::text, 'backoff'::text, 'children'::text, 'input'::text, 'share'::text]))),
    CONSTRAINT messages_lane CHECK (((((lane IS NOT NULL) OR (NOT (hold IS DISTINCT FROM 'share'::text))) = (lane_id IS NOT NULL)) AND ((((lane IS NOT NULL) = ((state = ANY (ARRAY['processing'::text, 'failed'::text])) OR ((state = 'queued'::text) AND (hold IS NULL)))) AND ((lane = 'dlq'::text) = (state = 'failed'::text))) OR ((subscription IS NOT NULL) AND (state = 'failed'::text) AND (lane IS NULL))))),
    CONSTRAINT messages_lane_check CHECK ((lane = ANY (ARRAY['high'::text, 'normal'::text, 'low'::text, 'dlq'::text]))),
    CONSTRAINT messages_max_attempts_check CHECK ((max_attempts >= 1)),
    CONSTRAINT messages_max_losses_check CHECK ((max_losses >= 1)),
    CONSTRAINT messages_over CHECK (((completed_at IS NOT NULL) = (state = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])))),
    CONSTRAINT messages_owner_check CHECK (((length(owner) >= 1) AND (length(owner) <= 255))),
    CONSTRAINT messages_place CHECK (((thread IS NULL) = (ord IS NULL))),
    CONSTRAINT messages_priority_check CHECK ((priority = ANY (ARRAY['high'::text, 'normal'::text, 'low'::text]))),
    CONSTRAINT messages_rank_check CHECK (((rank >= '-1'::integer) AND (rank <= 2))),
    CONSTRAINT messages_state_check CHECK ((state = ANY (ARRAY['queued'::text, 'processing'::text, 'completed'::text, 'failed'::text, 'cancelled'::text]))),
    CONSTRAINT messages_timeout_seconds_check CHECK ((timeout_seconds > (0)::double precision)),
    CONSTRAINT messages_traceparent_check CHECK (((length(traceparent) >= 55) AND (length(traceparent) <= 512)))
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000', fillfactor='28');
COMMENT ON TABLE treadle.messages IS 'What clients ask agents to do. Claim and finish change no indexed column and pages have room, so both are HOT updates';
COMMENT ON COLUMN treadle.messages.thread IS 'threads.id; no foreign key, because every writer holds the lock of the thread''s row';
COMMENT ON COLUMN treadle.messages.ord IS 'Place in the thread, assigned under the lock of the thread''s row';
COMMENT ON COLUMN treadle.messages.aside IS 'Belongs to the thread but takes no turn in it';
COMMENT ON COLUMN treadle.messages.lane IS 'The PGMQ queue that holds its row. Submitted: its priority. Work that comes back after a start: high. Failed: dlq';
COMMENT ON COLUMN treadle.messages.lane_id IS 'msg_id of that row; with hold = share: the place that the message waits at';
COMMENT ON COLUMN treadle.messages.share_place IS 'Its place among the messages of its tenant that wait for the lane, while hold = share: a copy of lane_id, which is in no index because each finish changes it';
COMMENT ON COLUMN treadle.messages.rank IS 'Order within the thread, before ord: -1 redriven, 0 high, 1 normal, 2 low';
COMMENT ON COLUMN treadle.messages.state IS 'queued -> processing (claim), cancelled (cancel), completed (taken by the running message: steer). processing -> queued (retry, release, loss, park), completed, failed or cancelled (finish, reap). failed -> queued (redrive). completed, failed and cancelled -> queued (retry from a step)';
COMMENT ON COLUMN treadle.messages.hold IS 'Why a queued message has no lane row; null: it has one. thread (another message has the turn) -> null by promotion, or completed (steer). delay (not due) -> thread or null when due. backoff (waits for a retry) -> null when due. children -> null when they are over. input -> null when a person answers. share (its tenant has its share of the lane, or is suspended) -> null when there is room';
COMMENT ON COLUMN treadle.messages.attempt IS 'Executions that began; only grows';
COMMENT ON COLUMN treadle.messages.failures IS 'Attempts that failed since the last progress (a step, a park); the message fails at max_attempts. A redrive resets it';
COMMENT ON COLUMN treadle.messages.losses IS 'Attempts whose worker, or whose own process, died; the message fails at MAX_LOSSES. Progress forgives all but one';
COMMENT ON COLUMN treadle.messages.max_losses IS 'Overrides MAX_LOSSES; null: MAX_LOSSES holds';
COMMENT ON COLUMN treadle.messages.timeout_seconds IS 'How long one attempt may run';
COMMENT ON COLUMN treadle.messages.last_seq IS 'Last event of the log at the last change of state; while processing, leases.last_seq is newer';
COMMENT ON COLUMN treadle.messages.run_at IS 'Not before this time: the end of the delay or of the backoff';
COMMENT ON COLUMN treadle.messages.overloaded_since IS 'Since when attempts find a service of the agent overloaded; null again after any other end of an attempt';
COMMENT ON COLUMN treadle.messages.parent IS 'The message that sent this one';
COMMENT ON COLUMN treadle.messages.depth IS 'How many messages lie above it, each sent by the one before. A chain has an end, so that agents that send to themselves cannot fill the database';
COMMENT ON COLUMN treadle.messages.owner IS 'The subject that it belongs to: in a thread that of the thread; null: none, so that no principal with a subject sees it';
COMMENT ON COLUMN treadle.messages.traceparent IS 'W3C trace context of the submit; null: it had none';
COMMENT ON COLUMN treadle.messages.schema_id IS 'The registered schema that body satisfies; null: none. Reserved: nothing fills it yet';
COMMENT ON COLUMN treadle.messages.usage IS 'What its attempts used together, as the agent reports it (tokens by kind)';
COMMENT ON COLUMN treadle.messages.subscription IS 'subscriptions.id, where a subscription delivered it';
COMMENT ON COLUMN treadle.messages.record_topic IS 'topics.id of its record';
COMMENT ON COLUMN treadle.messages.record_offset IS 'The offset of its record';
COMMENT ON COLUMN treadle.messages.interrupted IS 'A later message of the thread has cancelled it (on_busy = interrupt): what it has said stays in the history';
COMMENT ON COLUMN treadle.messages.steers IS 'The message that runs in the thread may take it (on_busy = steer)';
COMMENT ON COLUMN treadle.messages.steered_into IS 'The message that took it while it ran; null: none';
COMMENT ON COLUMN treadle.messages.callback_url IS 'The address that is told of its end; null: none';
COMMENT ON COLUMN treadle.messages.delivery IS 'Of a message to the built-in agent webhook: {"webhook"} or {"url", "headers"}, where its body is sent. Null: an ordinary message';
COMMENT ON COLUMN treadle.messages.questions IS 'The places (seq) in its log of the questions that it has asked a person; null: none, or before this column';
CREATE TABLE treadle.stat_rows (
    tenant text NOT NULL,
    seconds integer NOT NULL,
    at timestamp with time zone NOT NULL,
    queue text NOT NULL,
    agent text NOT NULL,
    submitted bigint DEFAULT 0 NOT NULL,
    completed bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    retried bigint DEFAULT 0 NOT NULL,
    cancelled bigint DEFAULT 0 NOT NULL,
    lost bigint DEFAULT 0 NOT NULL,
    waits bigint[],
    runs bigint[],
    first_chunks bigint[],
    input_tokens double precision DEFAULT 0 NOT NULL,
    output_tokens double precision DEFAULT 0 NOT NULL,
    cost double precision DEFAULT 0 NOT NULL,
    CONSTRAINT stat_rows_seconds_check CHECK ((seconds = ANY (ARRAY[60, 3600])))
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000');
COMMENT ON TABLE treadle.stat_rows IS 'What happened in each minute (kept 8 days) and each hour (400 days). The janitor adds the deltas of the counters to it';
COMMENT ON COLUMN treadle.stat_rows.seconds IS 'The length of the time: a minute or an hour';
COMMENT ON COLUMN treadle.stat_rows.waits IS 'How many waits fell into each bucket of treadle._bucket; null: none';
CREATE TABLE treadle.counters (
    id bigint NOT NULL,
    tenant text NOT NULL,
    queue text NOT NULL,
    slot timestamp with time zone NOT NULL,
    queued bigint DEFAULT 0 NOT NULL,
    processing bigint DEFAULT 0 NOT NULL,
    completed bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    cancelled bigint DEFAULT 0 NOT NULL,
    run_seconds double precision DEFAULT 0 NOT NULL,
    agent text,
    submitted integer,
    retried integer,
    lost integer,
    waits smallint[],
    runs smallint[],
    first_chunks smallint[],
    input_tokens double precision,
    output_tokens double precision,
    cost double precision
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');
COMMENT ON TABLE treadle.counters IS 'Deltas of how many messages are in which state. Inserts never wait for each other; the janitor folds rows together, and sums stay exact';
COMMENT ON COLUMN treadle.counters.slot IS 'The ten seconds in which it happened; -infinity once it is too old for the rates';
COMMENT ON COLUMN treadle.counters.run_seconds IS 'How long the messages that finished in the slot ran';
COMMENT ON COLUMN treadle.counters.agent IS 'The agent of all messages of this delta; null: the statistics have it already, or do not count it. The columns that follow are for the statistics alone';
COMMENT ON COLUMN treadle.counters.submitted IS 'New messages';
COMMENT ON COLUMN treadle.counters.retried IS 'Attempts that failed, or whose worker died, and that another one follows';
COMMENT ON COLUMN treadle.counters.lost IS 'Attempts whose worker, or whose own process, died';
COMMENT ON COLUMN treadle.counters.waits IS 'For each message that ended its first attempt: how long it waited for that, as a bucket of treadle._bucket';
COMMENT ON COLUMN treadle.counters.runs IS 'For each attempt that ended: how long it ran, as a bucket';
COMMENT ON COLUMN treadle.counters.first_chunks IS 'For each attempt that ended and wrote a chunk: how long after its start, as a bucket';
COMMENT ON COLUMN treadle.counters.cost IS 'In the currency of the agents: what they report as cost_usd or cost';
CREATE TABLE treadle.subscriptions (
    id bigint NOT NULL,
    tenant text NOT NULL,
    subscription text NOT NULL,
    topics text[] NOT NULL,
    agent text NOT NULL,
    delivery text NOT NULL,
    max_in_flight integer NOT NULL,
    filter jsonb,
    dead_letter boolean DEFAULT true NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    created_at timestamp with time zone NOT NULL,
    held integer DEFAULT 0 NOT NULL,
    CONSTRAINT subscriptions_agent_check CHECK (((length(agent) >= 1) AND (length(agent) <= 100))),
    CONSTRAINT subscriptions_delivery_check CHECK ((delivery = ANY (ARRAY['at_least_once'::text, 'at_most_once'::text, 'exactly_once'::text]))),
    CONSTRAINT subscriptions_max_in_flight_check CHECK ((max_in_flight >= 1)),
    CONSTRAINT subscriptions_subscription_check CHECK (((subscription ~ '^[A-Za-z0-9._-]{1,100}$'::text) AND (subscription <> ALL (ARRAY['.'::text, '..'::text])))),
    CONSTRAINT subscriptions_topics_check CHECK (((cardinality(topics) >= 1) AND (cardinality(topics) <= 100)))
)
WITH (fillfactor='50');
COMMENT ON TABLE treadle.subscriptions IS 'Consumer groups. The router locks a row while it delivers to it';
COMMENT ON COLUMN treadle.subscriptions.id IS 'Surrogate key, the column "subscription" of other tables; never shown to clients';
COMMENT ON COLUMN treadle.subscriptions.topics IS 'Names or patterns: * stands for one word, # for any number of them; dots separate words';
COMMENT ON COLUMN treadle.subscriptions.agent IS 'Handles its records. While no worker has registered the agent, nothing is delivered';
COMMENT ON COLUMN treadle.subscriptions.delivery IS 'at_most_once: a record is tried once. exactly_once: what the handler publishes and sends commits with its completion';
COMMENT ON COLUMN treadle.subscriptions.max_in_flight IS 'Messages that may be open at once; the other records stay in the log';
COMMENT ON COLUMN treadle.subscriptions.filter IS 'Only records whose value and headers contain these: {"value", "headers"}; null: all';
COMMENT ON COLUMN treadle.subscriptions.dead_letter IS 'false: a record that fails for good leaves no dead letter and is counted as dropped';
COMMENT ON COLUMN treadle.subscriptions.held IS 'How many rows of held_records it has; the router changes it under the lock of the row';
CREATE TABLE treadle.leases (
    message_id uuid NOT NULL,
    id bigint NOT NULL,
    tenant text NOT NULL,
    lease uuid NOT NULL,
    worker_id text NOT NULL,
    thread bigint,
    last_seq integer NOT NULL,
    cancel_requested boolean DEFAULT false NOT NULL,
    progressed boolean DEFAULT false NOT NULL,
    claimed_at timestamp with time zone NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    first_chunk_at timestamp with time zone
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');
COMMENT ON TABLE treadle.leases IS 'One row for each message that is processing: (message_id, lease) fences every write of its worker';
COMMENT ON COLUMN treadle.leases.id IS 'The order of claims; a search for leases begins at the low-water mark of these ids';
COMMENT ON COLUMN treadle.leases.last_seq IS 'Last event of the log; the lease holder numbers its events from here';
COMMENT ON COLUMN treadle.leases.progressed IS 'The attempt has written a step: that forgives the earlier failures and losses';
COMMENT ON COLUMN treadle.leases.expires_at IS 'The visibility timeout; heartbeats extend it';
COMMENT ON COLUMN treadle.leases.first_chunk_at IS 'When the attempt wrote its first chunk; null: none yet';
CREATE TABLE treadle.webhooks (
    webhook_id uuid NOT NULL,
    tenant text NOT NULL,
    url text NOT NULL,
    events text[] NOT NULL,
    agents text[],
    queues text[],
    format text NOT NULL,
    description text DEFAULT ''::text NOT NULL,
    enabled boolean DEFAULT true NOT NULL,
    disabled_reason text,
    secrets jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT webhooks_agents_check CHECK ((cardinality(agents) > 0)),
    CONSTRAINT webhooks_check CHECK (((disabled_reason IS NULL) OR (NOT enabled))),
    CONSTRAINT webhooks_events_check CHECK ((cardinality(events) > 0)),
    CONSTRAINT webhooks_format_check CHECK ((format = ANY (ARRAY['standard'::text, 'openai'::text]))),
    CONSTRAINT webhooks_queues_check CHECK ((cardinality(queues) > 0)),
    CONSTRAINT webhooks_secrets_check CHECK ((jsonb_typeof(secrets) = 'array'::text)),
    CONSTRAINT webhooks_url_check CHECK (((length(url) >= 1) AND (length(url) <= 2000)))
);
COMMENT ON TABLE treadle.webhooks IS 'Endpoints that are told of events of their tenant';
COMMENT ON COLUMN treadle.webhooks.events IS 'The types of events that it is told of';
COMMENT ON COLUMN treadle.webhooks.agents IS 'The only agents of whose messages it is told; null: all';
COMMENT ON COLUMN treadle.webhooks.queues IS 'The only queues of whose messages it is told; null: all';
COMMENT ON COLUMN treadle.webhooks.disabled_reason IS 'Why Treadle disabled it; null: it is enabled, or a person disabled it';
COMMENT ON COLUMN treadle.webhooks.secrets IS 'What signs its deliveries, the newest first: {"secret", "until"}; all that are valid sign, and only the newest has no end';
CREATE TABLE treadle.agents (
    agent text NOT NULL,
    queue text NOT NULL,
    timeout_seconds double precision NOT NULL,
    max_attempts integer NOT NULL,
    is_default boolean DEFAULT false NOT NULL,
    input jsonb,
    description text DEFAULT ''::text NOT NULL,
    registered_at timestamp with time zone NOT NULL,
    settings jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT agents_agent_check CHECK (((length(agent) >= 1) AND (length(agent) <= 100))),
    CONSTRAINT agents_max_attempts_check CHECK ((max_attempts >= 1)),
    CONSTRAINT agents_timeout_seconds_check CHECK ((timeout_seconds > (0)::double precision))
);
COMMENT ON TABLE treadle.agents IS 'The agents that can answer. Workers upsert them at their start; a submit is checked against them';
COMMENT ON COLUMN treadle.agents.is_default IS 'Answers messages that name no agent; at most one agent is the default';
COMMENT ON COLUMN treadle.agents.input IS 'JSON Schema of the input type that the agent declares; null: the agent takes text';
COMMENT ON COLUMN treadle.agents.settings IS 'Further declarations of the agent: run_in, concurrency, idle_timeout (seconds), while_busy';
CREATE TABLE treadle.topics (
    id bigint NOT NULL,
    tenant text NOT NULL,
    topic text NOT NULL,
    retention_hours double precision,
    max_record_bytes integer NOT NULL,
    schema_subject text,
    first_offset bigint DEFAULT 0 NOT NULL,
    purged_bytes bigint DEFAULT 0 NOT NULL,
    created_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone,
    CONSTRAINT topics_max_record_bytes_check CHECK ((max_record_bytes > 0)),
    CONSTRAINT topics_retention_hours_check CHECK ((retention_hours > (0)::double precision)),
    CONSTRAINT topics_schema_subject_check CHECK (((length(schema_subject) >= 1) AND (length(schema_subject) <= 255))),
    CONSTRAINT topics_topic_check CHECK (((topic ~ '^[A-Za-z0-9._-]{1,249}$'::text) AND (topic <> ALL (ARRAY['.'::text, '..'::text]))))
)
WITH (fillfactor='50');
COMMENT ON TABLE treadle.topics IS 'Named, retained logs of records';
COMMENT ON COLUMN treadle.topics.id IS 'Surrogate key, the column "topic" of other tables; never shown to clients';
COMMENT ON COLUMN treadle.topics.retention_hours IS 'How long a record is kept; null: for ever';
COMMENT ON COLUMN treadle.topics.max_record_bytes IS 'Of one record: its key, headers and value as stored, before compression';
COMMENT ON COLUMN treadle.topics.schema_subject IS 'The subject of the schema registry whose schema its records satisfy; null: none';
COMMENT ON COLUMN treadle.topics.first_offset IS 'Of the oldest record that is kept: those before are deleted, or about to be';
COMMENT ON COLUMN treadle.topics.purged_bytes IS 'The bytes of the records that are deleted';
COMMENT ON COLUMN treadle.topics.deleted_at IS 'Since when it is being deleted: it counts as unknown, and its rows are deleted in chunks';
CREATE TABLE treadle.store_items (
    tenant text NOT NULL,
    owner text NOT NULL,
    namespace text[] NOT NULL,
    key text NOT NULL,
    value jsonb NOT NULL,
    created_at timestamp with time zone NOT NULL,
    updated_at timestamp with time zone NOT NULL,
    bytes bigint,
    ttl interval,
    expires_at timestamp with time zone,
    CONSTRAINT store_items_value_check CHECK ((jsonb_typeof(value) = 'object'::text))
);
COMMENT ON TABLE treadle.store_items IS 'The store: values that clients and agents keep beside threads, by namespace and key';
COMMENT ON COLUMN treadle.store_items.owner IS 'The subject whose store it is; empty: the one of the tenant';
COMMENT ON COLUMN treadle.store_items.bytes IS 'What it counts for: see treadle._counted_bytes; null: the bytes of the value as text';
COMMENT ON COLUMN treadle.store_items.ttl IS 'How long it is kept after its last change, or its last read; null: for ever';
CREATE TABLE treadle.low_water (
    name text NOT NULL,
    low bigint DEFAULT 0 NOT NULL,
    next_low bigint,
    awaited text[] DEFAULT '{}'::text[] NOT NULL,
    passed text[] DEFAULT '{}'::text[] NOT NULL,
    passed_lows bigint[] DEFAULT '{}'::bigint[] NOT NULL,
    CONSTRAINT low_water_passed CHECK ((cardinality(passed) = cardinality(passed_lows)))
)
WITH (fillfactor='50');
COMMENT ON TABLE treadle.low_water IS 'Below these ids no live row is left. Readers of tables that are emptied from their head begin here, past the dead rows';
COMMENT ON COLUMN treadle.low_water.name IS 'A lane''s table in pgmq (for its new messages), the same and "returned" (for messages that come back), leases, counters, lane_shares, or due (for the microseconds since 1970 of messages that wait for their time). One row each';
COMMENT ON COLUMN treadle.low_water.low IS 'Rises; that of due also falls. Part of the key, so that a search finds the newest version first';
COMMENT ON COLUMN treadle.low_water.next_low IS 'The next mark; it holds once the awaited transactions have ended';
COMMENT ON COLUMN treadle.low_water.awaited IS 'Virtual ids of transactions that may still commit a row below next_low';
COMMENT ON COLUMN treadle.low_water.passed IS 'Virtual ids of transactions that stayed open for long, and may still commit rows below the mark';
COMMENT ON COLUMN treadle.low_water.passed_lows IS 'For each of them: the mark when it was passed; its rows are not below that';
CREATE TABLE treadle.keys (
    key_id text NOT NULL,
    tenant text NOT NULL,
    name text DEFAULT ''::text NOT NULL,
    secret_hash bytea NOT NULL,
    former_hash bytea,
    former_until timestamp with time zone,
    scopes text[] NOT NULL,
    agents text[],
    created_at timestamp with time zone NOT NULL,
    created_by text NOT NULL,
    expires_at timestamp with time zone,
    revoked_at timestamp with time zone,
    last_used_at timestamp with time zone,
    CONSTRAINT keys_agents_check CHECK ((cardinality(agents) > 0)),
    CONSTRAINT keys_former_hash_check CHECK ((length(former_hash) = 32)),
    CONSTRAINT keys_key_id_check CHECK ((key_id ~ '^[0-9a-z]{12}$'::text)),
    CONSTRAINT keys_name_check CHECK ((length(name) <= 100)),
    CONSTRAINT keys_rotation CHECK (((former_hash IS NULL) = (former_until IS NULL))),
    CONSTRAINT keys_scopes_check CHECK (((cardinality(scopes) > 0) AND (scopes <@ ARRAY['submit'::text, 'read'::text, 'operate'::text, 'publish'::text, 'work'::text, 'admin'::text]))),
    CONSTRAINT keys_secret_hash_check CHECK ((length(secret_hash) = 32))
);
COMMENT ON TABLE treadle.keys IS 'API keys. Only the SHA-256 of a secret is kept';
COMMENT ON COLUMN treadle.keys.former_hash IS 'The secret before the last rotation; valid until former_until';
COMMENT ON COLUMN treadle.keys.agents IS 'The only agents that it may address; null: all';
COMMENT ON COLUMN treadle.keys.created_by IS 'The principal that created it, as in the audit';
COMMENT ON COLUMN treadle.keys.last_used_at IS 'Written at most once a minute';
CREATE TABLE treadle.workers (
    worker_id text NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    queues text[] NOT NULL,
    agents text[] DEFAULT '{}'::text[] NOT NULL,
    concurrency integer NOT NULL,
    in_flight integer DEFAULT 0 NOT NULL,
    started_at timestamp with time zone NOT NULL,
    heartbeat_at timestamp with time zone NOT NULL,
    reported_at timestamp with time zone NOT NULL,
    beating_since timestamp with time zone NOT NULL,
    server_started timestamp with time zone,
    suspected_at timestamp with time zone,
    serves text,
    memory_bytes bigint,
    tenants text[]
);
COMMENT ON TABLE treadle.workers IS 'Processes that claim messages';
COMMENT ON COLUMN treadle.workers.heartbeat_at IS 'The last heartbeat, its own or one of its stand-in';
COMMENT ON COLUMN treadle.workers.reported_at IS 'The last heartbeat of its own, which named its leases';
COMMENT ON COLUMN treadle.workers.beating_since IS 'Heartbeats have arrived without a gap since this time';
COMMENT ON COLUMN treadle.workers.server_started IS 'Start time of the PostgreSQL server on which the worker''s listener holds its advisory lock; null: it holds none';
COMMENT ON COLUMN treadle.workers.suspected_at IS 'When a janitor found its advisory lock free; null after the next heartbeat';
COMMENT ON COLUMN treadle.workers.serves IS 'The tenant whose messages a remote worker claims, over HTTP; null: a worker of the installation';
COMMENT ON COLUMN treadle.workers.memory_bytes IS 'Resident memory of its process, without those of isolated agents; null: it did not tell';
COMMENT ON COLUMN treadle.workers.tenants IS 'The tenants whose messages it claims (TENANTS); null: those of all';
CREATE FUNCTION treadle.admit_due(quantity integer DEFAULT 1000, OUT admitted integer, OUT queues text[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.admit_due(quantity integer, OUT admitted integer, OUT queues text[]) IS 'The ordinary end of a delay or a backoff: admit due messages to their lane, or to their place in the thread';
CREATE FUNCTION treadle.agent_while_busy(thread_id text, agent text, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.agent_while_busy(thread_id text, agent text, tenant text, reach jsonb) IS 'The agent that answers while another one is at work in the thread';
CREATE FUNCTION treadle.another_claims(worker text, queue text, agent text, tenant text) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.another_claims(worker text, queue text, agent text, tenant text) IS 'Whether another worker claims messages of a tenant from a queue and has an agent';
CREATE FUNCTION treadle.another_replaces(worker text, agent text) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.another_replaces(worker text, agent text) IS 'Whether another worker has an agent and claims whatever this worker claims';
CREATE FUNCTION treadle.append(ids uuid[], leases uuid[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean) RETURNS TABLE(message_id uuid, status text, cancel_requested boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.append(ids uuid[], leases uuid[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean) IS 'Append events to messages under lease, numbered by the holder; repeatable';
CREATE FUNCTION treadle.append_and_send(id uuid, lease uuid, first_seq integer, event_types text[], event_datas text[], messages text, max_queue_size integer DEFAULT NULL::integer, patient boolean DEFAULT true) RETURNS TABLE(message_id uuid, status text, cancel_requested boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET lock_timeout TO '100ms'
    AS ...;
COMMENT ON FUNCTION treadle.append_and_send(id uuid, lease uuid, first_seq integer, event_types text[], event_datas text[], messages text, max_queue_size integer, patient boolean) IS 'Append events to a message under lease, and submit what it sends, in one transaction';
CREATE TABLE treadle.audit (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    tenant text NOT NULL,
    principal text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    details jsonb DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT audit_action_check CHECK ((action ~ '^[a-z_]+[.][a-z_]+$'::text))
);
COMMENT ON TABLE treadle.audit IS 'Who changed access, or stopped, repeated or deleted work: written in the transaction of the act, kept for AUDIT_RETENTION_HOURS';
COMMENT ON COLUMN treadle.audit.principal IS 'Such as key 4f2a (ci), token of key 4f2a (ci), or role alice for a session in SQL';
COMMENT ON COLUMN treadle.audit.action IS 'What was done to what, such as key.revoke or message.cancel';
COMMENT ON COLUMN treadle.audit.target IS 'The id or the name of what was acted on';
CREATE FUNCTION treadle.audit_page(of_tenant text DEFAULT NULL::text, since timestamp with time zone DEFAULT NULL::timestamp with time zone, before_at timestamp with time zone DEFAULT NULL::timestamp with time zone, before_id bigint DEFAULT NULL::bigint, quantity integer DEFAULT 100) RETURNS SETOF treadle.audit
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_custom_plan'
    AS ...;
COMMENT ON FUNCTION treadle.audit_page(of_tenant text, since timestamp with time zone, before_at timestamp with time zone, before_id bigint, quantity integer) IS 'A page of the audit, the newest act first';
CREATE FUNCTION treadle.begin_thread(thread_id text, name text, items jsonb, metadata jsonb, max_items integer, max_bytes integer, patient boolean DEFAULT true, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, actor text DEFAULT NULL::text) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.begin_thread(thread_id text, name text, items jsonb, metadata jsonb, max_items integer, max_bytes integer, patient boolean, tenant text, reach jsonb, actor text) IS 'Let a thread without messages begin with items in its metadata';
CREATE FUNCTION treadle.callback_secret(tenant text DEFAULT 'default'::text, grace_seconds double precision DEFAULT NULL::double precision, actor text DEFAULT NULL::text, OUT secret text, OUT former_until timestamp with time zone) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.callback_secret(tenant text, grace_seconds double precision, actor text, OUT secret text, OUT former_until timestamp with time zone) IS 'Show or rotate the secret that signs a tenant''s callbacks; raises TR403, TR404';
CREATE FUNCTION treadle.cancel(message_id uuid, patient boolean DEFAULT true, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, actor text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.cancel(message_id uuid, patient boolean, tenant text, reach jsonb, actor text) IS 'Cancel a message: ''cancelled'' now, or ''requested'' of the worker that runs it';
CREATE FUNCTION treadle.change_message(message_id uuid, priority text DEFAULT NULL::text, delay_seconds double precision DEFAULT NULL::double precision, metadata jsonb DEFAULT NULL::jsonb, patient boolean DEFAULT true, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.change_message(message_id uuid, priority text, delay_seconds double precision, metadata jsonb, patient boolean, tenant text, reach jsonb, actor text) IS 'Change the priority, the delay or the metadata of a queued message';
CREATE FUNCTION treadle.change_thread(thread_id text, metadata jsonb, patient boolean DEFAULT true, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.change_thread(thread_id text, metadata jsonb, patient boolean, tenant text, reach jsonb, actor text) IS 'Change the metadata of a thread';
CREATE FUNCTION treadle.change_webhook(webhook_id uuid, changes jsonb, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.change_webhook(webhook_id uuid, changes jsonb, tenant text, actor text) IS 'Change a webhook; raises TR404, TR422';
CREATE FUNCTION treadle.changed_tenants(after bigint, topics bigint[], OUT of_messages text[], OUT of_topics text[], OUT next_after bigint) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.changed_tenants(after bigint, topics bigint[], OUT of_messages text[], OUT of_topics text[], OUT next_after bigint) IS 'Whose messages have changed their state since a look, and whose topics have grown';
CREATE FUNCTION treadle.children(asker uuid, message_ids uuid[]) RETURNS TABLE(n bigint, message_id uuid, state text, result text, error text, parent uuid, thread_id text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.children(asker uuid, message_ids uuid[]) IS 'State and outcome of messages that another message waits for';
CREATE FUNCTION treadle.chores_due(janitor text, OUT names text[], OUT activity bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.chores_due(janitor text, OUT names text[], OUT activity bigint) IS 'The chores that would find something to do, and a number that grows whenever messages change their state';
CREATE FUNCTION treadle.claim(worker text, queues text[], quantity integer, lease_seconds double precision, first_lane text DEFAULT 'high'::text, tenants text[] DEFAULT NULL::text[], agents text[] DEFAULT NULL::text[], room_bytes bigint DEFAULT NULL::bigint) RETURNS TABLE(message_id uuid, lease uuid, thread bigint, thread_id text, ord bigint, queue text, agent text, priority text, body text, metadata text, attempt integer, max_attempts integer, failures integer, losses integer, timeout_seconds double precision, last_seq integer, created_at timestamp with time zone, aside boolean, parent uuid, memory text, overloaded_seconds double precision, depth integer, tenant text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.claim(worker text, queues text[], quantity integer, lease_seconds double precision, first_lane text, tenants text[], agents text[], room_bytes bigint) IS 'Take up to so many messages from the lanes of these queues for a worker; high before normal before low';
CREATE FUNCTION treadle.clock() RETURNS timestamp with time zone
    LANGUAGE sql PARALLEL SAFE
    AS ...;
COMMENT ON FUNCTION treadle.clock() IS 'Now, by the database''s clock, moved by the setting treadle.clock_shift';
CREATE FUNCTION treadle.conclude(id uuid, lease uuid, outcome text, result text, error text, traceback text, delay double precision, usage text, first_seq integer, event_types text[], event_datas text[], max_losses integer, messages text, memory text, children uuid[], max_queue_size integer DEFAULT NULL::integer, patient boolean DEFAULT true) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET lock_timeout TO '100ms'
    AS ...;
COMMENT ON FUNCTION treadle.conclude(id uuid, lease uuid, outcome text, result text, error text, traceback text, delay double precision, usage text, first_seq integer, event_types text[], event_datas text[], max_losses integer, messages text, memory text, children uuid[], max_queue_size integer, patient boolean) IS 'Finish one attempt, and with it submit what it sends, save the memory of its thread, or park it';
CREATE FUNCTION treadle.count_events(message_id uuid, among integer DEFAULT 10000) RETURNS TABLE(type text, events bigint, first_at timestamp with time zone, last_at timestamp with time zone, last_seq integer, log_end integer)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.count_events(message_id uuid, among integer) IS 'How many events of each type a message''s log has at its beginning';
CREATE FUNCTION treadle.create_key(key_id text, secret_hash bytea, tenant text, name text, scopes text[], agents text[] DEFAULT NULL::text[], expires_seconds double precision DEFAULT NULL::double precision, actor text DEFAULT NULL::text, OUT created_at timestamp with time zone, OUT expires_at timestamp with time zone) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.create_key(key_id text, secret_hash bytea, tenant text, name text, scopes text[], agents text[], expires_seconds double precision, actor text, OUT created_at timestamp with time zone, OUT expires_at timestamp with time zone) IS 'Store a new API key';
CREATE FUNCTION treadle.create_queue(name text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.create_queue(name text) IS 'Create the queue and its PGMQ lanes; does nothing where it exists';
CREATE FUNCTION treadle.create_sql_role(tenant text, verifier text, connections integer DEFAULT 5, statement_seconds integer DEFAULT 60, actor text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.create_sql_role(tenant text, verifier text, connections integer, statement_seconds integer, actor text) IS 'Create a login role that is bound to a tenant; returns its name';
CREATE FUNCTION treadle.create_subscription(subscription text, topics text[], agent text, start text DEFAULT 'latest'::text, delivery text DEFAULT 'at_least_once'::text, max_in_flight integer DEFAULT 1000, filter jsonb DEFAULT NULL::jsonb, dead_letter boolean DEFAULT true, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.create_subscription(subscription text, topics text[], agent text, start text, delivery text, max_in_flight integer, filter jsonb, dead_letter boolean, tenant text, actor text) IS 'Declare a subscription; returns created, changed or unchanged. Raises TR403, TR404, TR409, TR422';
CREATE FUNCTION treadle.create_tenant(tenant text, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.create_tenant(tenant text, actor text) IS 'Create a tenant; raises TR409 if there is one of this name';
CREATE FUNCTION treadle.create_thread(thread_id text, metadata jsonb DEFAULT '{}'::jsonb, memory jsonb DEFAULT NULL::jsonb, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, patient boolean DEFAULT true) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.create_thread(thread_id text, metadata jsonb, memory jsonb, tenant text, reach jsonb, patient boolean) IS 'Create a thread without messages; returns whether it is new';
CREATE FUNCTION treadle.create_topic(topic text, retention_hours double precision DEFAULT 168, max_record_bytes integer DEFAULT 1000000, schema_subject text DEFAULT NULL::text, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.create_topic(topic text, retention_hours double precision, max_record_bytes integer, schema_subject text, tenant text, actor text) IS 'Declare a topic; returns created, changed or unchanged. Raises TR403, TR404, TR409, TR422';
CREATE FUNCTION treadle.create_webhook(url text, events text[], agents text[] DEFAULT NULL::text[], queues text[] DEFAULT NULL::text[], format text DEFAULT 'standard'::text, description text DEFAULT ''::text, enabled boolean DEFAULT true, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text, OUT webhook_id uuid, OUT secret text) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.create_webhook(url text, events text[], agents text[], queues text[], format text, description text, enabled boolean, tenant text, actor text, OUT webhook_id uuid, OUT secret text) IS 'Create a webhook; returns its secret. Raises TR403, TR404, TR409, TR422';
CREATE FUNCTION treadle.dead_letter_page(queue_name text, quantity integer, before bigint DEFAULT NULL::bigint, page_bytes bigint DEFAULT 1000000, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(dlq_id bigint, queue text, message_id uuid, dead_at timestamp with time zone, reason text, attempts integer, thread_id text, agent text, user_message jsonb, traceback text, more boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.dead_letter_page(queue_name text, quantity integer, before bigint, page_bytes bigint, tenant text, reach jsonb) IS 'A page of the dead letters of a queue, the newest first';
CREATE FUNCTION treadle.declare_queue_size(max_queue_size integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.declare_queue_size(max_queue_size integer) IS 'Declare how many messages a queue may hold for submits of tenants'' own logins';
CREATE FUNCTION treadle.declare_tenant_limits(limits jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.declare_tenant_limits(limits jsonb) IS 'Declare the limits of tenants that have none of their own; raises TR422';
CREATE FUNCTION treadle.delete_push_config(message_id uuid, config_id text, tenant text DEFAULT 'default'::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.delete_push_config(message_id uuid, config_id text, tenant text) IS 'Delete an address that is told of a message';
CREATE FUNCTION treadle.delete_schemas(subject text, version integer DEFAULT NULL::integer, permanent boolean DEFAULT false, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text) RETURNS integer[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.delete_schemas(subject text, version integer, permanent boolean, tenant text, actor text) IS 'Delete a version of a subject, or all; raises TR404, TR409';
CREATE FUNCTION treadle.delete_subscription(subscription text, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.delete_subscription(subscription text, tenant text, actor text) IS 'Delete a subscription; its open messages go on. Raises TR404';
CREATE FUNCTION treadle.delete_tenant(tenant text, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.delete_tenant(tenant text, actor text) IS 'Make a tenant unknown at once, and its rows the janitors'' to delete; raises TR404';
CREATE FUNCTION treadle.delete_tenant_chunk(name text DEFAULT NULL::text, quantity integer DEFAULT 1000, OUT deleted integer, OUT pass_over boolean, OUT gone boolean) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.delete_tenant_chunk(name text, quantity integer, OUT deleted integer, OUT pass_over boolean, OUT gone boolean) IS 'Delete the next rows of a tenant that is being deleted; repeat until it is gone';
CREATE FUNCTION treadle.delete_thread(thread_id text, tenant text DEFAULT 'default'::text, patient boolean DEFAULT true, reach jsonb DEFAULT NULL::jsonb, actor text DEFAULT NULL::text) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.delete_thread(thread_id text, tenant text, patient boolean, reach jsonb, actor text) IS 'Delete a thread with its messages and events; running ones are cancelled. Returns how many messages';
CREATE FUNCTION treadle.delete_topic(topic text, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.delete_topic(topic text, tenant text, actor text) IS 'Make a topic unknown at once, and its records the janitors'' to delete; raises TR404';
CREATE FUNCTION treadle.delete_webhook(webhook_id uuid, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.delete_webhook(webhook_id uuid, tenant text, actor text) IS 'Delete a webhook; raises TR404';
CREATE FUNCTION treadle.deliver_records(topics bigint[] DEFAULT NULL::bigint[], names text[] DEFAULT NULL::text[], quantity integer DEFAULT 1000, OUT delivered integer, OUT queues text[], OUT again text[], OUT waiting text[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.deliver_records(topics bigint[], names text[], quantity integer, OUT delivered integer, OUT queues text[], OUT again text[], OUT waiting text[]) IS 'Turn the next records of subscriptions into messages of their agents';
CREATE FUNCTION treadle.delivers_webhooks() RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.delivers_webhooks() IS 'Whether a worker delivers webhooks, or has done so';
CREATE FUNCTION treadle.descendants(ancestor uuid, quantity integer DEFAULT 200, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(message_id uuid, parent uuid, depth integer, agent text, state text, hold text, created_at timestamp with time zone, started_at timestamp with time zone, completed_at timestamp with time zone, error text, usage jsonb)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.descendants(ancestor uuid, quantity integer, tenant text, reach jsonb) IS 'The messages that a message has sent, and those that they have sent';
CREATE FUNCTION treadle.drop_instance(agent text, thread_id text, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.drop_instance(agent text, thread_id text, tenant text, reach jsonb) IS 'Drop the warm instance that workers keep for an agent and a thread';
CREATE FUNCTION treadle.drop_partitions(until timestamp with time zone) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '500ms'
    AS ...;
COMMENT ON FUNCTION treadle.drop_partitions(until timestamp with time zone) IS 'Drop the daily partitions of days before `until` that are empty; returns how many';
CREATE FUNCTION treadle.drop_push_address(message_id uuid, url text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.drop_push_address(message_id uuid, url text) IS 'Delete the address of push notifications that a delivery was for';
CREATE FUNCTION treadle.drop_sql_role(role text, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.drop_sql_role(role text, actor text) IS 'Drop a login role that is bound to a tenant, and end its sessions';
CREATE FUNCTION treadle.earlier_results(message_id uuid) RETURNS TABLE(type text, name text, sent jsonb, data text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.earlier_results(message_id uuid) IS 'What earlier attempts left in a message''s log: step results, answers, sent ids';
CREATE FUNCTION treadle.end_tenant_sessions() RETURNS TABLE(tenant text, role text, reason text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.end_tenant_sessions() IS 'End sessions of tenants'' logins that keep a transaction open for too long or hold too many locks';
CREATE FUNCTION treadle.ensure_partitions(days integer DEFAULT 3) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '500ms'
    AS ...;
COMMENT ON FUNCTION treadle.ensure_partitions(days integer) IS 'Create the daily partitions of events and records, from yesterday to some days ahead; returns how many';
CREATE FUNCTION treadle.exchanges(thread bigint, before bigint, quantity integer, with_tools boolean, max_bytes bigint DEFAULT NULL::bigint) RETURNS TABLE(message jsonb, result jsonb, tools jsonb)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.exchanges(thread bigint, before bigint, quantity integer, with_tools boolean, max_bytes bigint) IS 'Earlier messages of a thread with their answers, the newest first';
CREATE FUNCTION treadle.explain(message_id uuid, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(cause text, sentence text, advice text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.explain(message_id uuid, tenant text, reach jsonb) IS 'Why a message has not finished: the reasons, the nearest first, each with what to do; raises TR404';
CREATE FUNCTION treadle.find_keys(key_ids text[]) RETURNS TABLE(key_id text, tenant text, name text, scopes text[], agents text[], secret_hash bytea, former_hash bytea, revoked boolean, seconds_left double precision, former_seconds_left double precision)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.find_keys(key_ids text[]) IS 'What checks the callers with these keys';
CREATE FUNCTION treadle.find_messages(filter jsonb DEFAULT '{}'::jsonb, before uuid DEFAULT NULL::uuid, quantity integer DEFAULT 100, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, rows integer DEFAULT 10000, bytes bigint DEFAULT 16000000, OUT message_ids uuid[], OUT next_before uuid) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.find_messages(filter jsonb, before uuid, quantity integer, tenant text, reach jsonb, rows integer, bytes bigint, OUT message_ids uuid[], OUT next_before uuid) IS 'Messages that satisfy a filter, the newest first, and where to go on';
CREATE FUNCTION treadle.find_tenants(names text[]) RETURNS TABLE(tenant text, since bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.find_tenants(names text[]) IS 'When tenants were created; what checks JWTs';
CREATE FUNCTION treadle.find_threads(q text DEFAULT NULL::text, before timestamp with time zone DEFAULT NULL::timestamp with time zone, before_thread bigint DEFAULT NULL::bigint, quantity integer DEFAULT 100, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, rows integer DEFAULT 1000, bytes bigint DEFAULT 4000000) RETURNS TABLE(thread bigint, thread_id text, message_count bigint, created_at timestamp with time zone, last_activity timestamp with time zone, last_message_preview text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.find_threads(q text, before timestamp with time zone, before_thread bigint, quantity integer, tenant text, reach jsonb, rows integer, bytes bigint) IS 'Threads, those that have a text or all, the most recently active first, and where to go on';
CREATE FUNCTION treadle.finish(ids uuid[], leases uuid[], outcomes text[], results text[], errors text[], tracebacks text[], delays double precision[], usages text[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean, max_losses integer DEFAULT 3, threads bigint[] DEFAULT NULL::bigint[]) RETURNS TABLE(message_id uuid, status text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.finish(ids uuid[], leases uuid[], outcomes text[], results text[], errors text[], tracebacks text[], delays double precision[], usages text[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean, max_losses integer, threads bigint[]) IS 'End attempts: results, last events, lane rows, dead letters, and the threads'' next messages, at once';
CREATE FUNCTION treadle.first_answer(key text, request_hash bytea, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.first_answer(key text, request_hash bytea, tenant text, reach jsonb) IS 'The answer to the first call under an Idempotency-Key';
CREATE FUNCTION treadle.first_published(key text, request_hash bytea, topic text, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.first_published(key text, request_hash bytea, topic text, tenant text, reach jsonb) IS 'The answer to the first publish under an Idempotency-Key';
CREATE FUNCTION treadle.fold_counters(quantity integer DEFAULT 20000) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.fold_counters(quantity integer) IS 'Fold counter deltas together; sums stay the same. Returns how many';
CREATE FUNCTION treadle.fold_stores() RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.fold_stores() IS 'Put the counts of stores together; sums stay the same. Returns how many rows are fewer';
CREATE FUNCTION treadle.fold_subscriptions(quantity integer DEFAULT 20000) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.fold_subscriptions(quantity integer) IS 'Fold the counts of subscriptions together; sums stay the same';
CREATE FUNCTION treadle.follow_topics(agent text, topics text[]) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.follow_topics(agent text, topics text[]) IS 'Let the subscription of an agent''s name read these topics; a worker calls it';
CREATE FUNCTION treadle.grown_logs(message_ids uuid[], threads bigint[], afters bigint[]) RETURNS TABLE(n integer)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.grown_logs(message_ids uuid[], threads bigint[], afters bigint[]) IS 'Which of these readers have something to read, without its events';
CREATE FUNCTION treadle.health(OUT has_queues boolean, OUT live_workers bigint) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.health(OUT has_queues boolean, OUT live_workers bigint) IS 'Whether there are queues, and how many workers live';
CREATE FUNCTION treadle.heartbeat(worker text, host text, pid integer, queues text[], concurrency integer, started_at timestamp with time zone, server_started timestamp with time zone, ids uuid[], leases uuid[], interval_seconds double precision, lease_seconds double precision, grace_seconds double precision, agents text[] DEFAULT '{}'::text[], memory_bytes bigint DEFAULT NULL::bigint, tenants text[] DEFAULT NULL::text[]) RETURNS TABLE(message_id uuid, lease uuid, verdict text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.heartbeat(worker text, host text, pid integer, queues text[], concurrency integer, started_at timestamp with time zone, server_started timestamp with time zone, ids uuid[], leases uuid[], interval_seconds double precision, lease_seconds double precision, grace_seconds double precision, agents text[], memory_bytes bigint, tenants text[]) IS 'A worker lives and holds these leases; the answer names those cancelled or lost';
CREATE FUNCTION treadle.input(message_id uuid, input jsonb, name text DEFAULT NULL::text, patient boolean DEFAULT true, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.input(message_id uuid, input jsonb, name text, patient boolean, tenant text, reach jsonb) IS 'Answer the question that a message waits with';
CREATE FUNCTION treadle.input_once(message_id uuid, key text, input jsonb, name text, patient boolean DEFAULT true, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.input_once(message_id uuid, key text, input jsonb, name text, patient boolean, tenant text, reach jsonb) IS 'Answer a question under a key, which can be repeated';
CREATE FUNCTION treadle.instance_secret() RETURNS bytea
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.instance_secret() IS 'The secret in the names of warm instances';
CREATE FUNCTION treadle.interrupt(message_id uuid, patient boolean DEFAULT true, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, actor text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.interrupt(message_id uuid, patient boolean, tenant text, reach jsonb, actor text) IS 'Cancel a message, and keep what it has said in the history';
CREATE FUNCTION treadle.last_outputs(message_ids uuid[]) RETURNS TABLE(message_id uuid, said text, graph jsonb)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.last_outputs(message_ids uuid[]) IS 'The last values of graphs, and what interrupted messages have said';
CREATE FUNCTION treadle.last_step(message_id uuid, pattern text) RETURNS jsonb
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.last_step(message_id uuid, pattern text) IS 'The result of the last of the steps of a message with such a name';
CREATE FUNCTION treadle.limit_tenant(tenant text, limits jsonb, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.limit_tenant(tenant text, limits jsonb, actor text) IS 'Give a tenant limits of its own; raises TR404, TR422';
CREATE FUNCTION treadle.limits_of(tenant text DEFAULT 'default'::text, OUT queued bigint, OUT max_queued bigint, OUT running bigint, OUT max_running bigint, OUT submits_left bigint, OUT per_minute bigint, OUT bytes_today bigint, OUT bytes_per_day bigint) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.limits_of(tenant text, OUT queued bigint, OUT max_queued bigint, OUT running bigint, OUT max_running bigint, OUT submits_left bigint, OUT per_minute bigint, OUT bytes_today bigint, OUT bytes_per_day bigint) IS 'What limits a tenant, and what it used';
CREATE FUNCTION treadle.list_keys(of_tenant text DEFAULT NULL::text, quantity integer DEFAULT 1000, before_at timestamp with time zone DEFAULT NULL::timestamp with time zone, before_key text DEFAULT NULL::text) RETURNS TABLE(key_id text, tenant text, name text, scopes text[], agents text[], created_at timestamp with time zone, created_by text, expires_at timestamp with time zone, revoked_at timestamp with time zone, former_until timestamp with time zone, last_used_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_custom_plan'
    AS ...;
COMMENT ON FUNCTION treadle.list_keys(of_tenant text, quantity integer, before_at timestamp with time zone, before_key text) IS 'The API keys without their secrets, the newest first';
CREATE FUNCTION treadle.list_push_configs(message_id uuid, tenant text DEFAULT 'default'::text) RETURNS TABLE(config_id text, url text, token text, scheme text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.list_push_configs(message_id uuid, tenant text) IS 'The addresses that are told of a message, without their credentials';
CREATE FUNCTION treadle.list_webhooks(tenant text DEFAULT 'default'::text, named uuid DEFAULT NULL::uuid) RETURNS TABLE(webhook_id uuid, url text, events text[], agents text[], queues text[], format text, description text, enabled boolean, disabled_reason text, created_at timestamp with time zone, former_until timestamp with time zone, last_at timestamp with time zone, last_message_id uuid, last_status integer, last_error text, succeeded_at timestamp with time zone, failing_since timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.list_webhooks(tenant text, named uuid) IS 'The webhooks of a tenant without their secrets, the newest first';
CREATE FUNCTION treadle.log_end(message_id uuid, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(last_seq integer, over boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.log_end(message_id uuid, tenant text, reach jsonb) IS 'The seq of a message''s last event so far, and whether the message is over';
CREATE FUNCTION treadle.mark_message(message_id uuid, marks jsonb, patient boolean DEFAULT true, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.mark_message(message_id uuid, marks jsonb, patient boolean, tenant text, reach jsonb) IS 'Add marks to the metadata of a message that is over';
CREATE FUNCTION treadle.mend_lanes(after uuid, quantity integer DEFAULT 5000, OUT last uuid, OUT mended integer, OUT queues text[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.mend_lanes(after uuid, quantity integer, OUT last uuid, OUT mended integer, OUT queues text[]) IS 'Give runnable messages whose lane row is missing (deleted by hand) a new one';
CREATE FUNCTION treadle.message_places(message_ids uuid[]) RETURNS TABLE(n bigint, state text, queue_position bigint, reason text, queue text, tenant text, agent text, lane_rank integer, lane_id bigint, thread bigint, place bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.message_places(message_ids uuid[]) IS 'State, position and place of each message, and what keeps it waiting';
CREATE FUNCTION treadle.milestones(message_id uuid, among integer DEFAULT 10000, page_bytes bigint DEFAULT 4000000) RETURNS TABLE(seq integer, type text, data jsonb, created_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.milestones(message_id uuid, among integer, page_bytes bigint) IS 'Where the attempts of a message begin and end, its steps and its tools';
CREATE FUNCTION treadle.missing_agents() RETURNS TABLE(queue text, agent text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.missing_agents() IS 'Agents for which messages wait, and that no living worker of their queue has';
CREATE FUNCTION treadle.missing_lanes() RETURNS TABLE(queue text, lane text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.missing_lanes() IS 'Lanes whose PGMQ queue does not exist; treadle migrate creates them again';
CREATE FUNCTION treadle.newest_dead_letters(quantity integer, queue_name text DEFAULT NULL::text, page_bytes bigint DEFAULT 1000000, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(dlq_id bigint, queue text, message_id uuid, dead_at timestamp with time zone, reason text, attempts integer, thread_id text, agent text, user_message jsonb, traceback text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.newest_dead_letters(quantity integer, queue_name text, page_bytes bigint, tenant text, reach jsonb) IS 'The newest dead letters of a queue or of all, the newest first';
CREATE FUNCTION treadle.note_key_uses(key_ids text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.note_key_uses(key_ids text[]) IS 'Note when keys were last used, at most once a minute';
CREATE FUNCTION treadle.note_post(webhook uuid, message_id uuid, status integer, error text, gone boolean, last_attempt boolean) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.note_post(webhook uuid, message_id uuid, status integer, error text, gone boolean, last_attempt boolean) IS 'Note how a delivery went; it may disable the webhook';
CREATE FUNCTION treadle.note_token(actor text, tenant text, target text, details jsonb) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.note_token(actor text, tenant text, target text, details jsonb) IS 'Note in the audit that an access token was made';
CREATE FUNCTION treadle.notify_health(OUT usage double precision, OUT hints_sent boolean, OUT holder text) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.notify_health(OUT usage double precision, OUT hints_sent boolean, OUT holder text) IS 'How full the queue of NOTIFY is, whether hints are sent, and which session probably keeps it full';
CREATE FUNCTION treadle.offer_webhooks() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.offer_webhooks() IS 'Create the queue of deliveries; a worker that delivers calls it';
CREATE FUNCTION treadle.open_messages(thread bigint, tenant text, reach jsonb, searched integer DEFAULT 1000) RETURNS TABLE(message_id uuid, agent text, question text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.open_messages(thread bigint, tenant text, reach jsonb, searched integer) IS 'The messages of a thread that are not over, and what they ask';
CREATE FUNCTION treadle.pace_vacuum(least_rows bigint DEFAULT 50000, pause_seconds double precision DEFAULT 60) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.pace_vacuum(least_rows bigint, pause_seconds double precision) IS 'Let autovacuum pass for a minute over tables whose dead rows it cannot remove';
CREATE FUNCTION treadle.passed_rows() RETURNS integer
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.passed_rows() IS 'How many lane rows the claims of this transaction have passed over: others hold them, or a limit leaves them';
CREATE FUNCTION treadle.pause(queue text, paused boolean DEFAULT true, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.pause(queue text, paused boolean, actor text) IS 'Stop claims from a queue or, with paused => false, resume them; submits go on';
CREATE FUNCTION treadle.pause_subscription(subscription text, paused boolean DEFAULT true, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.pause_subscription(subscription text, paused boolean, tenant text, actor text) IS 'Deliver nothing to a subscription or, with paused => false, go on; raises TR404';
CREATE FUNCTION treadle.post_of(message_id uuid, OUT tenant text, OUT webhook uuid, OUT url text, OUT headers jsonb, OUT secrets text[], OUT body text, OUT traceparent text, OUT failures integer, OUT last_attempt boolean, OUT refusal text) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.post_of(message_id uuid, OUT tenant text, OUT webhook uuid, OUT url text, OUT headers jsonb, OUT secrets text[], OUT body text, OUT traceparent text, OUT failures integer, OUT last_attempt boolean, OUT refusal text) IS 'What a worker needs to make a delivery of a webhook';
CREATE FUNCTION treadle.processing(quantity integer DEFAULT 100, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(message_id uuid)
    LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_sort TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.processing(quantity integer, tenant text, reach jsonb) IS 'Ids of messages that workers hold, the first claimed first';
CREATE FUNCTION treadle.publish(topic text, value jsonb, key text DEFAULT NULL::text, headers jsonb DEFAULT '{}'::jsonb, record_id uuid DEFAULT NULL::uuid, notify boolean DEFAULT false, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.publish(topic text, value jsonb, key text, headers jsonb, record_id uuid, notify boolean, tenant text, reach jsonb) IS 'Publish one record; it is sent when your transaction commits. Returns its id';
CREATE FUNCTION treadle.publish_many(topic text, records jsonb, tenant text DEFAULT 'default'::text, notify boolean DEFAULT false, reach jsonb DEFAULT NULL::jsonb, autocommit boolean DEFAULT false, lock_timeout text DEFAULT NULL::text) RETURNS TABLE(n integer, record_id uuid, created_at timestamp with time zone, known boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.publish_many(topic text, records jsonb, tenant text, notify boolean, reach jsonb, autocommit boolean, lock_timeout text) IS 'Publish an array of records to a topic: all or nothing';
CREATE FUNCTION treadle.publish_once(key text, request_hash bytea, topic text, records jsonb, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, autocommit boolean DEFAULT false, patient boolean DEFAULT true) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.publish_once(key text, request_hash bytea, topic text, records jsonb, tenant text, reach jsonb, autocommit boolean, patient boolean) IS 'Publish under an Idempotency-Key: a repeat gets the first answer';
CREATE FUNCTION treadle.purge(retention_hours double precision, dead_letter_hours double precision, after uuid DEFAULT NULL::uuid, quantity integer DEFAULT 2000, OUT purged integer, OUT last uuid) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.purge(retention_hours double precision, dead_letter_hours double precision, after uuid, quantity integer, OUT purged integer, OUT last uuid) IS 'Delete a chunk of expired messages, threads and keys; call again with the `last` it returned';
CREATE FUNCTION treadle.purge_audit(retention_hours double precision, quantity integer DEFAULT 10000) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.purge_audit(retention_hours double precision, quantity integer) IS 'Delete a chunk of old rows of the audit';
CREATE FUNCTION treadle.purge_records(quantity integer DEFAULT 5000) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.purge_records(quantity integer) IS 'Delete a chunk of the records past their retention, or of deleted topics; call again until it returns 0';
CREATE FUNCTION treadle.purge_stats(quantity integer DEFAULT 10000) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.purge_stats(quantity integer) IS 'Delete a chunk of old rows of the statistics';
CREATE FUNCTION treadle.purge_store_items(quantity integer DEFAULT 1000) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.purge_store_items(quantity integer) IS 'Delete a chunk of the items of stores that have expired';
CREATE FUNCTION treadle.questions(message_ids uuid[]) RETURNS TABLE(message_id uuid, seq integer, answered boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.questions(message_ids uuid[]) IS 'What messages have asked a person, and whether it is answered';
CREATE FUNCTION treadle.queue_lines(queues text[]) RETURNS TABLE(queue text, paused boolean, stopped text[], claimed jsonb, lane_rank integer, ids bigint[], last_id bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.queue_lines(queues text[]) IS 'The first rows of the lanes of queues, to tell positions in them';
CREATE FUNCTION treadle.queue_list(tenant text DEFAULT NULL::text, queue_name text DEFAULT NULL::text, after text DEFAULT NULL::text, quantity integer DEFAULT NULL::integer) RETURNS TABLE(queue text, paused boolean, queued bigint, processing bigint, completed bigint, failed bigint, cancelled bigint, ready bigint, oldest_seconds double precision, finished_per_minute bigint, mean_seconds double precision, created_at timestamp with time zone, workers bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.queue_list(tenant text, queue_name text, after text, quantity integer) IS 'The queues with the figures of one tenant''s messages';
CREATE FUNCTION treadle.queue_position(message_id uuid, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.queue_position(message_id uuid, tenant text, reach jsonb) IS 'How many messages will be claimed before this one, from 0; null if it does not wait for a worker';
CREATE FUNCTION treadle.queue_positions(message_ids uuid[]) RETURNS TABLE(n bigint, state text, queue_position bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.queue_positions(message_ids uuid[]) IS 'State and queue position of each message';
CREATE FUNCTION treadle.queue_stops(message_ids uuid[]) RETURNS TABLE(n bigint, reason text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.queue_stops(message_ids uuid[]) IS 'In a word, why these messages wait, where it is not for those before them; others are left out';
CREATE FUNCTION treadle.queued_messages(quantity integer DEFAULT 100, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(message_id uuid)
    LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 100
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_mergejoin TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.queued_messages(quantity integer, tenant text, reach jsonb) IS 'Ids of waiting messages, the next to be claimed first';
CREATE FUNCTION treadle.raise_marks() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.raise_marks() IS 'Let the low-water marks of lanes and leases follow their first rows';
CREATE FUNCTION treadle.read_events(message_ids uuid[], afters bigint[], quantity integer DEFAULT 200, threads bigint[] DEFAULT NULL::bigint[], page_bytes bigint DEFAULT 256000, at_least_one boolean DEFAULT true) RETURNS TABLE(n integer, message_id uuid, seq integer, pos bigint, type text, data text, created_at timestamp with time zone, last boolean, more boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.read_events(message_ids uuid[], afters bigint[], quantity integer, threads bigint[], page_bytes bigint, at_least_one boolean) IS 'New events for many readers: reader n has seen message_ids[n], or else threads[n], up to afters[n]';
CREATE FUNCTION treadle.read_log(message_id uuid, after bigint, quantity integer, page_bytes bigint, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(n integer, seq integer, pos bigint, type text, data text, created_at timestamp with time zone, last boolean, more boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.read_log(message_id uuid, after bigint, quantity integer, page_bytes bigint, tenant text, reach jsonb) IS 'A page of the log of one message that the principal sees';
CREATE FUNCTION treadle.read_records(topic text, start bigint, quantity integer DEFAULT 100, max_bytes bigint DEFAULT 1000000, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE("offset" bigint, record_id uuid, key text, headers jsonb, value jsonb, schema_id integer, created_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.read_records(topic text, start bigint, quantity integer, max_bytes bigint, tenant text, reach jsonb) IS 'Records of a topic from an offset on; raises TR404';
CREATE FUNCTION treadle.read_stats(of_tenant text, first timestamp with time zone, past timestamp with time zone, step integer DEFAULT 60, queue text DEFAULT NULL::text, agent text DEFAULT NULL::text, by text DEFAULT NULL::text) RETURNS TABLE(at timestamp with time zone, name text, submitted bigint, completed bigint, failed bigint, retried bigint, cancelled bigint, lost bigint, input_tokens double precision, output_tokens double precision, cost double precision, waits bigint[], runs bigint[], first_chunks bigint[])
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_custom_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.read_stats(of_tenant text, first timestamp with time zone, past timestamp with time zone, step integer, queue text, agent text, by text) IS 'Statistics in steps of time: sums, and histograms of waits and runs';
CREATE FUNCTION treadle.reap(janitor text, interval_seconds double precision, worker_timeout double precision, max_losses integer, quantity integer DEFAULT 1000) RETURNS TABLE(message_id uuid, worker text, thread bigint, queue text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET enable_seqscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.reap(janitor text, interval_seconds double precision, worker_timeout double precision, max_losses integer, quantity integer) IS 'Take the messages of dead workers back and charge each a loss; returns them';
CREATE FUNCTION treadle.record_place(record_id uuid, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(topic text, "offset" bigint, created_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.record_place(record_id uuid, tenant text, reach jsonb) IS 'Topic and offset of a record';
CREATE FUNCTION treadle.records_waiting_seconds() RETURNS double precision
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.records_waiting_seconds() IS 'How long the oldest record waits for its offset; null: none waits';
CREATE FUNCTION treadle.redrive(message_id uuid, patient boolean DEFAULT true, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, actor text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.redrive(message_id uuid, patient boolean, tenant text, reach jsonb, actor text) IS 'Give a failed message a new life';
CREATE FUNCTION treadle.register_agents(agents jsonb, default_agent text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.register_agents(agents jsonb, default_agent text) IS 'Upsert agents, create their queues, and declare the default agent';
CREATE FUNCTION treadle.register_schema(subject text, kind text, body text, digest uuid, latest integer, refs jsonb DEFAULT '[]'::jsonb, extras jsonb DEFAULT NULL::jsonb, descriptor bytea DEFAULT NULL::bytea, tenant text DEFAULT 'default'::text, OUT schema_id integer, OUT version integer) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.register_schema(subject text, kind text, body text, digest uuid, latest integer, refs jsonb, extras jsonb, descriptor bytea, tenant text, OUT schema_id integer, OUT version integer) IS 'Make a schema, which the service has checked, the next version of a subject';
CREATE FUNCTION treadle.remote_append(tenants text[], workers text[], ids uuid[], leases uuid[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean) RETURNS TABLE(status text, cancel_requested boolean, thread bigint)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_append(tenants text[], workers text[], ids uuid[], leases uuid[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean) IS 'As remote_append_events; older API processes call it';
CREATE FUNCTION treadle.remote_append_and_send(tenant text, worker text, message_id uuid, lease uuid, first_seq integer, event_types text[], event_datas text[], messages text, max_queue_size integer, patient boolean, OUT status text, OUT cancel_requested boolean, OUT thread bigint) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_append_and_send(tenant text, worker text, message_id uuid, lease uuid, first_seq integer, event_types text[], event_datas text[], messages text, max_queue_size integer, patient boolean, OUT status text, OUT cancel_requested boolean, OUT thread bigint) IS 'As remote_append_step; older API processes call it';
CREATE FUNCTION treadle.remote_append_events(tenants text[], workers text[], ids uuid[], leases uuid[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean) RETURNS TABLE(status text, cancel_requested boolean, thread bigint, former_seq integer, seconds double precision, queue text, agent text, attempt integer, created_at timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_append_events(tenants text[], workers text[], ids uuid[], leases uuid[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean) IS 'Append events to messages that remote workers hold; repeatable';
CREATE FUNCTION treadle.remote_append_step(tenant text, worker text, message_id uuid, lease uuid, first_seq integer, event_types text[], event_datas text[], messages text, max_queue_size integer, patient boolean, OUT status text, OUT cancel_requested boolean, OUT thread bigint, OUT former_seq integer) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_append_step(tenant text, worker text, message_id uuid, lease uuid, first_seq integer, event_types text[], event_datas text[], messages text, max_queue_size integer, patient boolean, OUT status text, OUT cancel_requested boolean, OUT thread bigint, OUT former_seq integer) IS 'Append a step to a message that a remote worker holds, and submit what it sends, in one transaction';
CREATE FUNCTION treadle.remote_children(tenant text, worker text, message_id uuid, lease uuid, message_ids uuid[]) RETURNS TABLE(n bigint, child uuid, state text, result text, error text, parent uuid, thread_id text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_children(tenant text, worker text, message_id uuid, lease uuid, message_ids uuid[]) IS 'State and outcome of messages that a remote worker''s message waits for';
CREATE FUNCTION treadle.remote_claim(of_tenant text, worker text, quantity integer, lease_seconds double precision, first_lane text DEFAULT 'high'::text, room_bytes bigint DEFAULT NULL::bigint) RETURNS TABLE(message_id uuid, lease uuid, thread bigint, thread_id text, ord bigint, queue text, agent text, priority text, body text, metadata text, attempt integer, max_attempts integer, failures integer, losses integer, timeout_seconds double precision, last_seq integer, created_at timestamp with time zone, aside boolean, parent uuid, memory text, overloaded_seconds double precision, depth integer, tenant text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_claim(of_tenant text, worker text, quantity integer, lease_seconds double precision, first_lane text, room_bytes bigint) IS 'Take messages of its tenant, for its agents, for a remote worker';
CREATE FUNCTION treadle.remote_conclude_attempt(tenant text, worker text, message_id uuid, lease uuid, attempt integer, outcome text, result text, usage text, first_seq integer, event_types text[], event_datas text[], max_losses integer, messages text, memory text, children uuid[], max_queue_size integer, patient boolean, OUT status text, OUT thread bigint, OUT queue text, OUT subscription text) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_conclude_attempt(tenant text, worker text, message_id uuid, lease uuid, attempt integer, outcome text, result text, usage text, first_seq integer, event_types text[], event_datas text[], max_losses integer, messages text, memory text, children uuid[], max_queue_size integer, patient boolean, OUT status text, OUT thread bigint, OUT queue text, OUT subscription text) IS 'As remote_end_attempt; older API processes call it';
CREATE FUNCTION treadle.remote_earlier(ids uuid[]) RETURNS TABLE(message_id uuid, type text, name text, data text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_earlier(ids uuid[]) IS 'The steps, questions and answers of messages, for a remote worker that tries them again';
CREATE FUNCTION treadle.remote_end_attempt(tenant text, worker text, message_id uuid, lease uuid, attempt integer, outcome text, result text, usage text, first_seq integer, event_types text[], event_datas text[], max_losses integer, messages text, memory text, children uuid[], max_queue_size integer, patient boolean, OUT status text, OUT thread bigint, OUT queue text, OUT subscription text, OUT repeated boolean, OUT agent text, OUT created_at timestamp with time zone, OUT former_seq integer, OUT seconds double precision, OUT chunked boolean, OUT delay_seconds double precision) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_end_attempt(tenant text, worker text, message_id uuid, lease uuid, attempt integer, outcome text, result text, usage text, first_seq integer, event_types text[], event_datas text[], max_losses integer, messages text, memory text, children uuid[], max_queue_size integer, patient boolean, OUT status text, OUT thread bigint, OUT queue text, OUT subscription text, OUT repeated boolean, OUT agent text, OUT created_at timestamp with time zone, OUT former_seq integer, OUT seconds double precision, OUT chunked boolean, OUT delay_seconds double precision) IS 'End an attempt of a remote worker, and with it submit what it sends, save the memory of its thread, or park it';
CREATE FUNCTION treadle.remote_end_attempts(tenants text[], workers text[], ids uuid[], leases uuid[], attempts integer[], outcomes text[], results text[], errors text[], delays double precision[], usages text[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean, max_losses integer, retry_base double precision, retry_max double precision) RETURNS TABLE(status text, thread bigint, queue text, subscription text, repeated boolean, agent text, created_at timestamp with time zone, former_seq integer, seconds double precision, chunked boolean, delay_seconds double precision)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_end_attempts(tenants text[], workers text[], ids uuid[], leases uuid[], attempts integer[], outcomes text[], results text[], errors text[], delays double precision[], usages text[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean, max_losses integer, retry_base double precision, retry_max double precision) IS 'End attempts of remote workers; repeatable where the message is over';
CREATE FUNCTION treadle.remote_finish(tenants text[], workers text[], ids uuid[], leases uuid[], attempts integer[], outcomes text[], results text[], errors text[], delays double precision[], usages text[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean, max_losses integer, retry_base double precision, retry_max double precision) RETURNS TABLE(status text, thread bigint, queue text, subscription text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_finish(tenants text[], workers text[], ids uuid[], leases uuid[], attempts integer[], outcomes text[], results text[], errors text[], delays double precision[], usages text[], first_seqs integer[], event_items integer[], event_types text[], event_datas text[], patient boolean, max_losses integer, retry_base double precision, retry_max double precision) IS 'As remote_end_attempts; older API processes call it';
CREATE FUNCTION treadle.remote_heartbeat(tenant text, worker text, ids uuid[], leases uuid[], interval_seconds double precision, lease_seconds double precision, grace_seconds double precision) RETURNS TABLE(message_id uuid, lease uuid, verdict text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_heartbeat(tenant text, worker text, ids uuid[], leases uuid[], interval_seconds double precision, lease_seconds double precision, grace_seconds double precision) IS 'A remote worker lives and holds these leases; the answer names those cancelled or lost';
CREATE FUNCTION treadle.remote_overloaded(tenant text, worker text, message_id uuid, lease uuid) RETURNS double precision
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_overloaded(tenant text, worker text, message_id uuid, lease uuid) IS 'For how long the attempts of a remote worker''s message have found a service overloaded';
CREATE FUNCTION treadle.remote_register(tenant text, worker text, host text, pid integer, agents jsonb, concurrency integer, may_register boolean) RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_register(tenant text, worker text, host text, pid integer, agents jsonb, concurrency integer, may_register boolean) IS 'Register a remote worker of a tenant, with its agents';
CREATE FUNCTION treadle.remote_sender(tenant text, worker text, message_id uuid, lease uuid) RETURNS TABLE(thread bigint, ord bigint, depth integer, delivery text, traceparent text, sent text[], cancelled text[], retries bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_sender(tenant text, worker text, message_id uuid, lease uuid) IS 'What a remote worker''s message may send, and what it has sent before';
CREATE FUNCTION treadle.remote_sign_off(tenant text, worker text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_sign_off(tenant text, worker text) IS 'A remote worker signs off: what it still has is released';
CREATE FUNCTION treadle.remote_trace_parent(claimed uuid) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_trace_parent(claimed uuid) IS 'The W3C trace context of a message that was just claimed';
CREATE FUNCTION treadle.remote_worker(tenant text, worker text, OUT queues text[], OUT agents text[]) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.remote_worker(tenant text, worker text, OUT queues text[], OUT agents text[]) IS 'The queues and agents of a remote worker; raises TR404';
CREATE FUNCTION treadle.report_instances(worker text, threads bigint[], agents text[], ages double precision[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.report_instances(worker text, threads bigint[], agents text[], ages double precision[]) IS 'These are the warm instances of a worker';
CREATE FUNCTION treadle.restore_lanes() RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.restore_lanes() IS 'Create the missing lanes again, with the rows that they had; returns them';
CREATE FUNCTION treadle.retry_from(message_id uuid, step text, patient boolean DEFAULT true, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, actor text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.retry_from(message_id uuid, step text, patient boolean, tenant text, reach jsonb, actor text) IS 'Run a message that is over again, from one of its steps';
CREATE FUNCTION treadle.revoke_key(key_id text, of_tenant text DEFAULT NULL::text, actor text DEFAULT NULL::text) RETURNS timestamp with time zone
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.revoke_key(key_id text, of_tenant text, actor text) IS 'End an API key, with the tokens that it made';
CREATE FUNCTION treadle.rotate_key(key_id text, secret_hash bytea, grace_seconds double precision, of_tenant text DEFAULT NULL::text, actor text DEFAULT NULL::text) RETURNS TABLE(tenant text, name text, scopes text[], agents text[], expires_at timestamp with time zone, former_until timestamp with time zone)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.rotate_key(key_id text, secret_hash bytea, grace_seconds double precision, of_tenant text, actor text) IS 'Give an API key another secret; the old one ends later';
CREATE FUNCTION treadle.rotate_webhook(webhook_id uuid, grace_seconds double precision, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text, OUT secret text, OUT former_until timestamp with time zone) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.rotate_webhook(webhook_id uuid, grace_seconds double precision, tenant text, actor text, OUT secret text, OUT former_until timestamp with time zone) IS 'Give a webhook another secret; raises TR404';
CREATE FUNCTION treadle.router_health(OUT waiting_seconds double precision, OUT undelivered bigint) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.router_health(OUT waiting_seconds double precision, OUT undelivered bigint) IS 'How long the oldest record waits for its offset, and how many records subscriptions have not received';
CREATE FUNCTION treadle.schema_references(subject text, version integer, tenant text DEFAULT 'default'::text, deleted boolean DEFAULT false) RETURNS integer[]
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.schema_references(subject text, version integer, tenant text, deleted boolean) IS 'The ids of the schemas that refer to a version of a subject';
CREATE FUNCTION treadle.schema_rule(subject text, rule text, tenant text DEFAULT 'default'::text, inherited boolean DEFAULT true) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.schema_rule(subject text, rule text, tenant text, inherited boolean) IS 'The compatibility or the mode of a subject; null: no rule, so the default';
CREATE FUNCTION treadle.seek_subscription(subscription text, start text, topic text DEFAULT NULL::text, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.seek_subscription(subscription text, start text, topic text, tenant text, actor text) IS 'Move a subscription to earliest, latest, an offset or a time; raises TR404, TR422';
CREATE FUNCTION treadle.sequence_records(quantity integer DEFAULT 100, late boolean DEFAULT false, OUT topics bigint[], OUT more boolean) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.sequence_records(quantity integer, late boolean, OUT topics bigint[], OUT more boolean) IS 'Give published records their offsets; returns the topics that grew';
CREATE FUNCTION treadle.set_push_config(message_id uuid, config_id text, url text, token text DEFAULT NULL::text, scheme text DEFAULT NULL::text, credentials text DEFAULT NULL::text, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, patient boolean DEFAULT true) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.set_push_config(message_id uuid, config_id text, url text, token text, scheme text, credentials text, tenant text, reach jsonb, patient boolean) IS 'Set an address that is told of a message; raises TR404, TR422';
CREATE FUNCTION treadle.set_schema_rule(subject text, rule text, value text, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.set_schema_rule(subject text, rule text, value text, tenant text, actor text) IS 'Set the compatibility or the mode of a subject, or of all';
CREATE FUNCTION treadle.sign_off(worker text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
CREATE FUNCTION treadle.signing_secret() RETURNS bytea
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.signing_secret() IS 'The secret that signs access tokens';
CREATE FUNCTION treadle.sql_roles_of(tenant text) RETURNS TABLE(role text, created_at timestamp with time zone)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.sql_roles_of(tenant text) IS 'The login roles that are bound to a tenant';
CREATE FUNCTION treadle.stand_in(worker text, lease_seconds double precision) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.stand_in(worker text, lease_seconds double precision) IS 'A heartbeat in the place of a worker that lives and cannot send its own';
CREATE FUNCTION treadle.store_use(tenant text DEFAULT 'default'::text, OUT bytes bigint, OUT max_bytes bigint) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.store_use(tenant text, OUT bytes bigint, OUT max_bytes bigint) IS 'How many bytes the stores of a tenant have together, and may have';
CREATE FUNCTION treadle.submit(message jsonb, thread_id text DEFAULT NULL::text, priority text DEFAULT 'normal'::text, agent text DEFAULT NULL::text, metadata jsonb DEFAULT '{}'::jsonb, delay_seconds double precision DEFAULT 0, max_attempts integer DEFAULT NULL::integer, timeout_seconds double precision DEFAULT NULL::double precision, aside boolean DEFAULT false, notify boolean DEFAULT false, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, max_losses integer DEFAULT NULL::integer, thread_metadata jsonb DEFAULT NULL::jsonb, callback_url text DEFAULT NULL::text) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.submit(message jsonb, thread_id text, priority text, agent text, metadata jsonb, delay_seconds double precision, max_attempts integer, timeout_seconds double precision, aside boolean, notify boolean, tenant text, reach jsonb, max_losses integer, thread_metadata jsonb, callback_url text) IS 'Submit one message whose agent takes an object; it is sent when your transaction commits. Returns its id';
CREATE FUNCTION treadle.submit(message text, thread_id text DEFAULT NULL::text, priority text DEFAULT 'normal'::text, agent text DEFAULT NULL::text, metadata jsonb DEFAULT '{}'::jsonb, delay_seconds double precision DEFAULT 0, max_attempts integer DEFAULT NULL::integer, timeout_seconds double precision DEFAULT NULL::double precision, aside boolean DEFAULT false, notify boolean DEFAULT false, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, max_losses integer DEFAULT NULL::integer, thread_metadata jsonb DEFAULT NULL::jsonb, callback_url text DEFAULT NULL::text) RETURNS uuid
    LANGUAGE sql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.submit(message text, thread_id text, priority text, agent text, metadata jsonb, delay_seconds double precision, max_attempts integer, timeout_seconds double precision, aside boolean, notify boolean, tenant text, reach jsonb, max_losses integer, thread_metadata jsonb, callback_url text) IS 'Submit one message; it is sent when your transaction commits. Returns its id';
CREATE FUNCTION treadle.submit_many(messages jsonb, tenant text DEFAULT 'default'::text, notify boolean DEFAULT false, max_queue_size integer DEFAULT NULL::integer, patient boolean DEFAULT true, lock_timeout text DEFAULT NULL::text, strict boolean DEFAULT true, autocommit boolean DEFAULT false, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(n integer, message_id uuid, state text, queue text, queue_position bigint, created_at timestamp with time zone, thread_id text, thread bigint, refusal_code text, refusal text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    SET enable_mergejoin TO 'off'
    SET enable_hashjoin TO 'off'
    SET enable_memoize TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.submit_many(messages jsonb, tenant text, notify boolean, max_queue_size integer, patient boolean, lock_timeout text, strict boolean, autocommit boolean, reach jsonb) IS 'Submit an array of messages in the order given: all or nothing, or (not strict) each by itself';
CREATE FUNCTION treadle.submit_once(key text, request_hash bytea, messages jsonb, tenant text DEFAULT 'default'::text, max_queue_size integer DEFAULT NULL::integer, autocommit boolean DEFAULT false, patient boolean DEFAULT true, reach jsonb DEFAULT NULL::jsonb, OUT answer jsonb, OUT repeated boolean) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.submit_once(key text, request_hash bytea, messages jsonb, tenant text, max_queue_size integer, autocommit boolean, patient boolean, reach jsonb, OUT answer jsonb, OUT repeated boolean) IS 'Submit under an Idempotency-Key: a repeat gets the first answer';
CREATE FUNCTION treadle.submitted_once(key text, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS uuid
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.submitted_once(key text, tenant text, reach jsonb) IS 'The first message that was submitted under an Idempotency-Key';
CREATE FUNCTION treadle.suspend_tenant(tenant text, suspended boolean DEFAULT true, actor text DEFAULT NULL::text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.suspend_tenant(tenant text, suspended boolean, actor text) IS 'Refuse the submits of a tenant and claim nothing of it or, with suspended => false, go on; raises TR404';
CREATE FUNCTION treadle.sweep(look_back_seconds double precision DEFAULT NULL::double precision, OUT above bigint, OUT queues text[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.sweep(look_back_seconds double precision, OUT above bigint, OUT queues text[]) IS 'Let the low-water marks follow their first rows; bring back the lane rows below them';
CREATE FUNCTION treadle.take_incoming(taker uuid, lease uuid) RETURNS TABLE(message_id uuid, message text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '50ms'
    AS ...;
COMMENT ON FUNCTION treadle.take_incoming(taker uuid, lease uuid) IS 'What clients have said to a running message since it began';
CREATE FUNCTION treadle.tend_parents(ids uuid[] DEFAULT NULL::uuid[], quantity integer DEFAULT 1000, OUT admitted integer, OUT queues text[]) RETURNS record
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.tend_parents(ids uuid[], quantity integer, OUT admitted integer, OUT queues text[]) IS 'Let messages go on whose children are over, and cancel the children of those that failed or were cancelled';
CREATE FUNCTION treadle.test_webhook(webhook_id uuid, tenant text DEFAULT 'default'::text, actor text DEFAULT NULL::text, OUT message_id uuid) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '200ms'
    AS ...;
COMMENT ON FUNCTION treadle.test_webhook(webhook_id uuid, tenant text, actor text, OUT message_id uuid) IS 'Send a test event to a webhook; returns the id of its delivery';
CREATE FUNCTION treadle.thread_lines(threads bigint[], quantity integer DEFAULT 200) RETURNS TABLE(thread bigint, places bigint[])
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.thread_lines(threads bigint[], quantity integer) IS 'The first places behind the turns of threads, to tell positions in them';
CREATE FUNCTION treadle.thread_logs(thread_ids text[], tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(n bigint, thread bigint, message_count bigint, last_pos bigint)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.thread_logs(thread_ids text[], tenant text, reach jsonb) IS 'Key, number of messages and end of the log of each thread';
CREATE FUNCTION treadle.thread_place(thread_id text, pos bigint, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(thread bigint, last_pos bigint, event_at timestamp with time zone)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.thread_place(thread_id text, pos bigint, tenant text, reach jsonb) IS 'Key and log end of a thread, and the time of its event at a position';
CREATE FUNCTION treadle.thread_usage(thread bigint, OUT messages bigint, OUT usage jsonb) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.thread_usage(thread bigint, OUT messages bigint, OUT usage jsonb) IS 'What a thread''s messages used, summed by kind, and how many reported it';
CREATE FUNCTION treadle.topic_bounds(topic text, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, OUT topic_key bigint, OUT first_offset bigint, OUT next_offset bigint) RETURNS record
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.topic_bounds(topic text, tenant text, reach jsonb, OUT topic_key bigint, OUT first_offset bigint, OUT next_offset bigint) IS 'Which offsets a topic has, from the first to before the next; raises TR404';
CREATE FUNCTION treadle.topic_names(after text, quantity integer, tenant text DEFAULT 'default'::text) RETURNS SETOF text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.topic_names(after text, quantity integer, tenant text) IS 'The names of the next topics of a tenant, in their order';
CREATE FUNCTION treadle.topic_offset(topic text, start text, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS bigint
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.topic_offset(topic text, start text, tenant text, reach jsonb) IS 'The offset of earliest, latest, an offset or a time in a topic; raises TR404, TR422';
CREATE FUNCTION treadle.topic_subject(topic text, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.topic_subject(topic text, tenant text, reach jsonb) IS 'The subject whose schema the records of a topic must fit; null: none';
CREATE FUNCTION treadle.topic_subjects(topics text[], tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb) RETURNS TABLE(topic text, subject text)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.topic_subjects(topics text[], tenant text, reach jsonb) IS 'The subjects whose schemas the records of several topics must fit';
CREATE FUNCTION treadle.trace_parents(message_ids uuid[]) RETURNS TABLE(message_id uuid, traceparent text)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.trace_parents(message_ids uuid[]) IS 'The W3C trace context of the submit of each message that has one';
CREATE FUNCTION treadle.traceback(message_id uuid) RETURNS text
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.traceback(message_id uuid) IS 'The traceback with which a message failed';
CREATE FUNCTION treadle.turn_holder(thread_id text, tenant text, reach jsonb) RETURNS TABLE(message_id uuid, asks boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.turn_holder(thread_id text, tenant text, reach jsonb) IS 'The message that has the turn in a thread';
CREATE FUNCTION treadle.turn_in_progress(thread bigint, progress_events integer) RETURNS TABLE(message_id uuid, agent text, message jsonb, steps jsonb, progress jsonb)
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET plan_cache_mode TO 'force_generic_plan'
    SET enable_seqscan TO 'off'
    SET enable_bitmapscan TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.turn_in_progress(thread bigint, progress_events integer) IS 'The message that has the turn in a thread, with its log so far';
CREATE FUNCTION treadle.unclaimed_queues() RETURNS TABLE(queue text, queued bigint)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.unclaimed_queues() IS 'Queues with queued messages that no living worker claims: it has another queue, or claims of other tenants';
CREATE FUNCTION treadle.use_store(calls jsonb, tenant text DEFAULT 'default'::text, reach jsonb DEFAULT NULL::jsonb, patient boolean DEFAULT true) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.use_store(calls jsonb, tenant text, reach jsonb, patient boolean) IS 'Get, put, delete, search and list values by namespace and key';
CREATE FUNCTION treadle.use_store_for(message_id uuid, lease uuid, calls jsonb, patient boolean DEFAULT true) RETURNS jsonb
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    SET lock_timeout TO '2s'
    AS ...;
COMMENT ON FUNCTION treadle.use_store_for(message_id uuid, lease uuid, calls jsonb, patient boolean) IS 'The same for an agent, in the store of the subject of its message';
CREATE FUNCTION treadle.uuid7() RETURNS uuid
    LANGUAGE sql PARALLEL SAFE
    AS ...;
COMMENT ON FUNCTION treadle.uuid7() IS 'A new UUIDv7';
CREATE FUNCTION treadle.uuid_at(at timestamp with time zone) RETURNS uuid
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS ...;
COMMENT ON FUNCTION treadle.uuid_at(at timestamp with time zone) IS 'The smallest id that a message of that time can have';
CREATE FUNCTION treadle.vacuum_health(OUT dead_rows bigint, OUT table_name text, OUT snapshot_seconds double precision, OUT holder text) RETURNS record
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    SET "TimeZone" TO 'UTC'
    SET jit TO 'off'
    AS ...;
COMMENT ON FUNCTION treadle.vacuum_health(OUT dead_rows bigint, OUT table_name text, OUT snapshot_seconds double precision, OUT holder text) IS 'The table with the most dead rows, and the age of the oldest snapshot that keeps such rows';
CREATE FUNCTION treadle.worker_key(worker text) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS ...;
CREATE TABLE treadle.threads (
    id bigint NOT NULL,
    tenant text NOT NULL,
    thread_id text NOT NULL,
    owner text,
    agents text[] DEFAULT '{}'::text[] NOT NULL,
    created_at timestamp with time zone NOT NULL,
    metadata jsonb DEFAULT '{}'::jsonb NOT NULL,
    memory jsonb,
    CONSTRAINT threads_owner_check CHECK (((length(owner) >= 1) AND (length(owner) <= 255))),
    CONSTRAINT threads_thread_id_check CHECK (((((length(thread_id) >= 1) AND (length(thread_id) <= 255)) AND (thread_id !~ '[[:cntrl:]/]'::text)) OR ((thread_id ~ '^records/[A-Za-z0-9._-]+/'::text) AND ((length(thread_id) >= 1) AND (length(thread_id) <= 400)))))
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000');
COMMENT ON TABLE treadle.threads IS 'Conversations. The lock of a thread''s row orders its messages';
COMMENT ON COLUMN treadle.threads.id IS 'Surrogate key, the column "thread" of other tables; never shown to clients';
COMMENT ON COLUMN treadle.threads.thread_id IS 'The id that the client chose, unique in its tenant; or records/<subscription>/<key>, which no client can choose';
COMMENT ON COLUMN treadle.threads.owner IS 'The subject that the thread belongs to; null: none, so that no principal with a subject sees it';
COMMENT ON COLUMN treadle.threads.agents IS 'The agents of its messages, written under the lock of this row';
COMMENT ON COLUMN treadle.threads.memory IS 'JSON that the thread''s agents keep from message to message; written with the completion of one';
CREATE VIEW treadle._lane_violations WITH (security_invoker='true') AS
 WITH lanes AS MATERIALIZED (
         SELECT _lane_rows.queue,
            _lane_rows.lane,
            _lane_rows.msg_id,
            _lane_rows.enqueued_at,
            _lane_rows.vt,
            _lane_rows.message
           FROM treadle._lane_rows() _lane_rows(queue, lane, msg_id, enqueued_at, vt, message)
        ), wrong_lane_row AS (
         SELECT m.message_id,
            m.state,
            m.queue,
            m.lane,
            m.lane_id,
            r.bodies
           FROM ((treadle.messages m
             LEFT JOIN treadle.threads t ON ((t.id = m.thread)))
             LEFT JOIN ( SELECT r_1.queue,
                    r_1.lane,
                    r_1.msg_id,
                    jsonb_agg(r_1.message) AS bodies
                   FROM lanes r_1
                  GROUP BY r_1.queue, r_1.lane, r_1.msg_id) r ON (((r.queue = m.queue) AND (r.lane = m.lane) AND (r.msg_id = m.lane_id))))
          WHERE ((((m.lane IS NOT NULL) <> ((m.state = ANY (ARRAY['processing'::text, 'failed'::text])) OR ((m.state = 'queued'::text) AND (m.hold IS NULL)))) AND (NOT ((m.state = 'failed'::text) AND (m.subscription IS NOT NULL)))) OR ((m.lane IS NOT NULL) AND (jsonb_array_length(r.bodies) <> 1)) OR ((m.lane <> 'dlq'::text) AND (r.bodies IS NULL)) OR ((m.lane <> 'dlq'::text) AND ((r.bodies -> 0) <> treadle._lane_message(message_id => m.message_id, thread_id => t.thread_id, agent => m.agent, tenant => m.tenant))) OR ((m.lane = 'dlq'::text) AND (NOT ((r.bodies -> 0) @> (treadle._lane_message(message_id => m.message_id, thread_id => t.thread_id, agent => m.agent, tenant => m.tenant) || jsonb_build_object('reason', m.error, 'attempts', m.attempt))))))
        ), stray_lane_row AS (
         SELECT r.queue,
            r.lane,
            r.msg_id,
            r.enqueued_at,
            r.vt,
            r.message
           FROM (lanes r
             LEFT JOIN treadle.messages m ON (((m.message_id = treadle._uuid((r.message ->> 'message_id'::text))) AND (m.queue = r.queue) AND (m.lane = r.lane) AND (m.lane_id = r.msg_id))))
          WHERE ((m.message_id IS NULL) AND (NOT ((r.lane = 'dlq'::text) AND (NOT ((r.message ->> 'reason'::text) IS DISTINCT FROM 'foreign'::text)))))
        ), wrong_visibility AS (
         SELECT m.message_id,
            m.state,
            r.vt,
            l.expires_at
           FROM ((treadle.messages m
             JOIN lanes r ON (((r.queue = m.queue) AND (r.lane = m.lane) AND (r.msg_id = m.lane_id))))
             LEFT JOIN treadle.leases l USING (message_id))
          WHERE (((m.state = 'queued'::text) AND (r.vt > treadle.clock()) AND (r.vt <> r.enqueued_at)) OR ((m.state = 'processing'::text) AND (r.vt < l.expires_at)))
        ), wrong_lease AS (
         SELECT COALESCE(m.message_id, l.message_id) AS message_id,
            m.state,
            m.worker_id,
            m.thread,
            l.worker_id AS lease_worker,
            l.thread AS lease_thread
           FROM (treadle.messages m
             FULL JOIN treadle.leases l ON ((l.message_id = m.message_id)))
          WHERE (((NOT (m.state IS DISTINCT FROM 'processing'::text)) <> (l.message_id IS NOT NULL)) OR ((l.message_id IS NOT NULL) AND ((l.worker_id IS DISTINCT FROM m.worker_id) OR (l.thread IS DISTINCT FROM m.thread))))
        ), row_below_mark AS (
         SELECT r.queue,
            r.lane,
            r.msg_id,
            r.enqueued_at,
            r.vt,
            r.message
           FROM (((lanes r
             CROSS JOIN LATERAL treadle._lane_table(r.queue, r.lane) t(name))
             JOIN treadle.low_water w ON ((w.name =
                CASE
                    WHEN (r.msg_id < 0) THEN treadle._returned_mark(t.name)
                    ELSE t.name
                END)))
             JOIN treadle.messages m ON (((m.message_id = treadle._uuid((r.message ->> 'message_id'::text))) AND (m.state = 'queued'::text))))
          WHERE ((r.msg_id < w.low) AND ((r.vt <= treadle.clock()) OR (r.vt = r.enqueued_at)) AND (NOT (r.msg_id >= ANY (w.passed_lows))))
        ), lease_below_mark AS (
         SELECT l.message_id,
            l.id
           FROM treadle.leases l
          WHERE (l.id < treadle._low_water_mark('leases'::text))
        ), counter_below_mark AS (
         SELECT c.id,
            c.queue
           FROM treadle.counters c
          WHERE ((c.id < treadle._low_water_mark('counters'::text)) AND (NOT (c.id >= ANY ((treadle._mark('counters'::text)).passed_lows))))
        )
 SELECT 'A message that may run or runs has one row in its lane; a failed one has at most one dead letter.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_lane_row v
UNION ALL
 SELECT 'Every lane row belongs to a message (except dead letters of foreign rows).'::text AS rule,
    ((((v.queue || '_'::text) || v.lane) || ' '::text) || v.msg_id) AS subject,
    to_jsonb(v.*) AS detail
   FROM stray_lane_row v
UNION ALL
 SELECT 'The lane row of a message that may run is visible; that of a running one is hidden for its lease.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_visibility v
UNION ALL
 SELECT 'A message has a lease if and only if it is processing.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_lease v
UNION ALL
 SELECT 'No visible row lies below its low-water mark.'::text AS rule,
    ((((v.queue || '_'::text) || v.lane) || ' '::text) || v.msg_id) AS subject,
    to_jsonb(v.*) AS detail
   FROM row_below_mark v
UNION ALL
 SELECT 'No lease lies below its low-water mark.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM lease_below_mark v
UNION ALL
 SELECT 'No counter lies below its low-water mark.'::text AS rule,
    v.queue AS subject,
    to_jsonb(v.*) AS detail
   FROM counter_below_mark v;
CREATE TABLE treadle.events (
    message_id uuid NOT NULL,
    seq integer NOT NULL,
    tenant text NOT NULL,
    thread bigint,
    thread_pos bigint,
    type text NOT NULL,
    data jsonb,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT events_seq_check CHECK ((seq >= 1))
)
PARTITION BY RANGE (message_id);
COMMENT ON TABLE treadle.events IS 'The append-only log of each message, dense from 1 by seq, and of each thread, dense from 1 by thread_pos';
COMMENT ON COLUMN treadle.events.data IS 'null for queued and done: readers take both from the message itself, so log and result cannot disagree';
CREATE TABLE treadle.thread_log (
    thread bigint NOT NULL,
    era bigint DEFAULT 0 NOT NULL,
    tenant text NOT NULL,
    last_pos bigint NOT NULL,
    CONSTRAINT thread_log_era CHECK ((era = (last_pos / 16)))
)
WITH (autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000', fillfactor='20');
COMMENT ON TABLE treadle.thread_log IS 'The last thread_pos of each thread, in one row. Apart from threads, so that an append never waits for an open transaction that submits';
COMMENT ON COLUMN treadle.thread_log.era IS 'Part of the key, so that a search finds the newest version first, also past the dead ones that an old snapshot keeps. Changes seldom, so that most updates touch no index';
CREATE TABLE treadle.trash (
    message_id uuid NOT NULL,
    tenant text NOT NULL,
    last_seq integer NOT NULL,
    deleted_seq integer DEFAULT 0 NOT NULL,
    CONSTRAINT trash_rest CHECK (((deleted_seq >= 0) AND (deleted_seq < last_seq)))
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000');
COMMENT ON TABLE treadle.trash IS 'Deleted messages whose events are not all deleted yet. purge deletes the rest in chunks; no reader is shown them';
COMMENT ON COLUMN treadle.trash.last_seq IS 'The last event of the log';
COMMENT ON COLUMN treadle.trash.deleted_seq IS 'Events up to this seq are deleted already';
CREATE VIEW treadle._log_violations WITH (security_invoker='true') AS
 WITH log_with_holes AS (
         SELECT m.message_id,
            m.state,
            e.seqs,
            COALESCE(l.last_seq, m.last_seq) AS last_seq
           FROM ((treadle.messages m
             LEFT JOIN treadle.leases l USING (message_id))
             CROSS JOIN LATERAL ( SELECT array_agg(e_1.seq ORDER BY e_1.seq) AS seqs
                   FROM treadle.events e_1
                  WHERE (e_1.message_id = m.message_id)) e)
          WHERE (e.seqs IS DISTINCT FROM ( SELECT array_agg(s.s) AS array_agg
                   FROM generate_series(1, COALESCE(l.last_seq, m.last_seq)) s(s)))
        ), stray_event AS (
         SELECT e.message_id,
            e.seq,
            e.thread,
            e.thread_pos,
            m.thread AS thread_of_message
           FROM (treadle.events e
             LEFT JOIN treadle.messages m USING (message_id))
          WHERE (((m.message_id IS NULL) OR (e.thread IS DISTINCT FROM m.thread) OR ((e.thread IS NULL) <> (e.thread_pos IS NULL))) AND (NOT (EXISTS ( SELECT
                   FROM treadle.trash t
                  WHERE ((t.message_id = e.message_id) AND (e.seq > t.deleted_seq) AND (e.seq <= t.last_seq))))))
        ), wrong_trash AS (
         SELECT t.message_id,
            t.last_seq,
            t.deleted_seq
           FROM treadle.trash t
          WHERE ((EXISTS ( SELECT
                   FROM treadle.messages m
                  WHERE (m.message_id = t.message_id))) OR ((t.last_seq - t.deleted_seq) <> ( SELECT count(*) AS count
                   FROM treadle.events e
                  WHERE (e.message_id = t.message_id))))
        ), thread_log_with_holes AS (
         SELECT t.id,
            t.thread_id,
            l.last_pos,
            e.positions
           FROM ((treadle.threads t
             LEFT JOIN treadle.thread_log l ON ((l.thread = t.id)))
             CROSS JOIN LATERAL ( SELECT array_agg(e_1.thread_pos ORDER BY e_1.thread_pos) AS positions
                   FROM treadle.events e_1
                  WHERE (e_1.thread = t.id)) e)
          WHERE ((l.last_pos IS NULL) OR (e.positions IS DISTINCT FROM ( SELECT array_agg(s.s) AS array_agg
                   FROM generate_series((1)::bigint, l.last_pos) s(s))))
        ), stray_thread_log AS (
         SELECT l.thread,
            l.last_pos
           FROM treadle.thread_log l
          WHERE (NOT (EXISTS ( SELECT
                   FROM treadle.threads t
                  WHERE (t.id = l.thread))))
        ), thread_log_out_of_order AS (
         SELECT o.message_id,
            o.seq,
            o.thread_pos,
            o.before
           FROM ( SELECT e.message_id,
                    e.seq,
                    e.thread_pos,
                    lag(e.thread_pos) OVER (PARTITION BY e.message_id ORDER BY e.seq) AS before
                   FROM treadle.events e
                  WHERE (e.thread IS NOT NULL)) o
          WHERE (o.before >= o.thread_pos)
        ), wrong_final_events AS (
         SELECT m.message_id,
            m.state,
            e.types
           FROM (treadle.messages m
             CROSS JOIN LATERAL ( SELECT string_agg(treadle._life_event(e_1.type, e_1.data), ' '::text ORDER BY e_1.seq) AS types
                   FROM treadle.events e_1
                  WHERE ((e_1.message_id = m.message_id) AND (e_1.type = ANY (ARRAY['queued'::text, 'done'::text, 'error'::text, 'cancelled'::text])))) e)
          WHERE ((e.types !~ (('^queued( error queued| (done|error|cancelled) retried)*'::text ||
                CASE m.state
                    WHEN 'completed'::text THEN ' done'::text
                    WHEN 'failed'::text THEN ' error'::text
                    WHEN 'cancelled'::text THEN ' cancelled'::text
                    ELSE ''::text
                END) || '$'::text)) OR ((m.state = ANY (ARRAY['completed'::text, 'failed'::text, 'cancelled'::text])) AND (NOT (EXISTS ( SELECT
                   FROM treadle.events e_1
                  WHERE ((e_1.message_id = m.message_id) AND (e_1.seq = m.last_seq) AND (e_1.type = ANY (ARRAY['done'::text, 'error'::text, 'cancelled'::text]))))))))
        ), wrong_attempt_events AS (
         SELECT m.message_id,
            m.state,
            m.attempt,
            e.types
           FROM (treadle.messages m
             CROSS JOIN LATERAL ( SELECT COALESCE(string_agg(treadle._life_event(e_1.type, e_1.data), ' '::text ORDER BY e_1.seq), ''::text) AS types,
                    count(*) FILTER (WHERE (e_1.type = 'started'::text)) AS attempts
                   FROM treadle.events e_1
                  WHERE ((e_1.message_id = m.message_id) AND (e_1.type = ANY (ARRAY['queued'::text, 'started'::text, 'retry'::text, 'parked'::text, 'done'::text, 'error'::text, 'cancelled'::text])))) e)
          WHERE ((m.attempt <> e.attempts) OR ((e.types !~ '^queued( started (retry|parked)| started error (queued|retried)| (started done|started cancelled|cancelled) retried)*( started| started done| started error| started cancelled| cancelled)?$'::text) AND (NOT ((e.types = 'queued done'::text) AND (m.steered_into IS NOT NULL)))) OR ((e.types ~ ' started$'::text) <> (m.state = 'processing'::text)))
        )
 SELECT 'A log is dense from 1, and ends where its message or the lease says.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM log_with_holes v
UNION ALL
 SELECT 'An event belongs to a message, and to the thread of that message.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM stray_event v
UNION ALL
 SELECT 'Trash is no longer a message, and holds exactly the events that are not deleted yet.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_trash v
UNION ALL
 SELECT 'A thread''s log is dense from 1 to its last_pos.'::text AS rule,
    v.thread_id AS subject,
    to_jsonb(v.*) AS detail
   FROM thread_log_with_holes v
UNION ALL
 SELECT 'A thread''s log belongs to a thread.'::text AS rule,
    (v.thread)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM stray_thread_log v
UNION ALL
 SELECT 'In a thread''s log, each message''s events keep their own order.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM thread_log_out_of_order v
UNION ALL
 SELECT 'Each life has one final event, that of its state, and a message that is over ends with it.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_final_events v
UNION ALL
 SELECT 'Every attempt has its `started`, and ends with `retry`, with `parked`, or with its life.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_attempt_events v;
CREATE TABLE treadle.not_completed (
    tenant text NOT NULL,
    state text NOT NULL,
    message_id uuid NOT NULL,
    CONSTRAINT not_completed_state_check CHECK ((state = ANY (ARRAY['failed'::text, 'cancelled'::text])))
);
COMMENT ON TABLE treadle.not_completed IS 'Messages that failed or were cancelled. No index of treadle.messages can name the state, which each claim changes';
CREATE TABLE treadle.parked (
    message_id uuid NOT NULL,
    tenant text NOT NULL,
    children uuid[] NOT NULL
);
COMMENT ON TABLE treadle.parked IS 'The children that a message with hold = children waits for. After a message failed, or was cancelled or deleted: those of its children that are still to be cancelled';
CREATE VIEW treadle._message_violations WITH (security_invoker='true') AS
 WITH wrong_outcome AS (
         SELECT m.message_id,
            m.state,
            m.result,
            m.error,
            m.started_at,
            m.worker_id
           FROM treadle.messages m
          WHERE (((m.result IS NOT NULL) AND (m.state <> 'completed'::text)) OR ((m.state = 'failed'::text) AND (m.error IS NULL)) OR ((m.state = 'processing'::text) AND ((m.started_at IS NULL) OR (m.worker_id IS NULL))) OR ((m.state = 'completed'::text) AND (m.started_at IS NULL)) OR ((m.state = 'queued'::text) AND ((m.started_at IS NOT NULL) OR (m.worker_id IS NOT NULL))))
        ), wrong_charges AS (
         SELECT m.message_id,
            m.state,
            m.attempt,
            m.failures,
            m.losses,
            m.max_attempts
           FROM treadle.messages m
          WHERE ((m.failures > m.max_attempts) OR ((m.failures + m.losses) > m.attempt) OR ((m.failures = m.max_attempts) AND (m.state = ANY (ARRAY['queued'::text, 'processing'::text]))))
        ), wrong_wait AS (
         SELECT m.message_id,
            m.state,
            m.hold,
            p.children,
            e.type,
            e.data
           FROM ((treadle.messages m
             LEFT JOIN treadle.parked p USING (message_id))
             LEFT JOIN treadle.events e ON (((m.hold = ANY (ARRAY['children'::text, 'input'::text])) AND (e.message_id = m.message_id) AND (e.seq = m.last_seq))))
          WHERE (((p.children IS NOT NULL) AND (m.hold IS DISTINCT FROM 'children'::text) AND (m.state <> ALL (ARRAY['failed'::text, 'cancelled'::text]))) OR ((m.hold = 'children'::text) AND (p.children IS NULL)) OR ((m.hold = ANY (ARRAY['children'::text, 'input'::text])) AND ((e.type IS DISTINCT FROM 'parked'::text) OR ((e.data ->> 'hold'::text) IS DISTINCT FROM m.hold))))
        ), wrong_counter AS (
         SELECT queue,
            to_jsonb(c.*) AS counted,
            to_jsonb(m.*) AS found
           FROM (( SELECT c_1.tenant,
                    c_1.queue,
                    sum(c_1.queued) AS queued,
                    sum(c_1.processing) AS processing,
                    sum(c_1.completed) AS completed,
                    sum(c_1.failed) AS failed,
                    sum(c_1.cancelled) AS cancelled
                   FROM treadle.counters c_1
                  GROUP BY c_1.tenant, c_1.queue) c
             FULL JOIN ( SELECT m_1.tenant,
                    m_1.queue,
                    count(*) FILTER (WHERE (m_1.state = 'queued'::text)) AS queued,
                    count(*) FILTER (WHERE (m_1.state = 'processing'::text)) AS processing,
                    count(*) FILTER (WHERE (m_1.state = 'completed'::text)) AS completed,
                    count(*) FILTER (WHERE (m_1.state = 'failed'::text)) AS failed,
                    count(*) FILTER (WHERE (m_1.state = 'cancelled'::text)) AS cancelled
                   FROM treadle.messages m_1
                  GROUP BY m_1.tenant, m_1.queue) m USING (tenant, queue))
          WHERE ((COALESCE(c.queued, (0)::numeric) <> (COALESCE(m.queued, (0)::bigint))::numeric) OR (COALESCE(c.processing, (0)::numeric) <> (COALESCE(m.processing, (0)::bigint))::numeric) OR (COALESCE(c.completed, (0)::numeric) <> (COALESCE(m.completed, (0)::bigint))::numeric) OR (COALESCE(c.failed, (0)::numeric) <> (COALESCE(m.failed, (0)::bigint))::numeric) OR (COALESCE(c.cancelled, (0)::numeric) <> (COALESCE(m.cancelled, (0)::bigint))::numeric))
        ), wrong_note AS (
         SELECT COALESCE(n.message_id, m.message_id) AS message_id,
            n.state AS noted,
            m.state
           FROM (treadle.not_completed n
             FULL JOIN ( SELECT x.tenant,
                    x.state,
                    x.message_id
                   FROM treadle.messages x
                  WHERE (x.state = ANY (ARRAY['failed'::text, 'cancelled'::text]))) m USING (tenant, state, message_id))
          WHERE ((n.message_id IS NULL) OR (m.message_id IS NULL))
        )
 SELECT 'A result exists only for completed messages, started_at only for those that run or ran.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_outcome v
UNION ALL
 SELECT 'The counters of each tenant and queue add up to the messages that exist.'::text AS rule,
    v.queue AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_counter v
UNION ALL
 SELECT 'Messages that failed or were cancelled are noted, and no others.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_note v
UNION ALL
 SELECT 'A message that waits for children names them, one that waits for input has asked, and no other does.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_wait v
UNION ALL
 SELECT 'Failures and losses stay within the limits of a life.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_charges v;
CREATE TABLE treadle.held_records (
    subscription bigint NOT NULL,
    topic bigint NOT NULL,
    "offset" bigint NOT NULL,
    tenant text NOT NULL,
    key text NOT NULL
);
COMMENT ON TABLE treadle.held_records IS 'Records that a position has passed and that are not delivered yet: another transaction holds the thread of their key. The router tries them again';
CREATE TABLE treadle.subscription_counts (
    id bigint NOT NULL,
    tenant text NOT NULL,
    subscription bigint NOT NULL,
    open bigint DEFAULT 0 NOT NULL,
    completed bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    cancelled bigint DEFAULT 0 NOT NULL,
    dropped bigint DEFAULT 0 NOT NULL,
    filtered bigint DEFAULT 0 NOT NULL,
    expired bigint DEFAULT 0 NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');
COMMENT ON TABLE treadle.subscription_counts IS 'Deltas of what became of the records of each subscription. Inserts never wait for each other; the janitor folds rows together';
COMMENT ON COLUMN treadle.subscription_counts.open IS 'Messages that are queued or processing';
COMMENT ON COLUMN treadle.subscription_counts.dropped IS 'Messages that failed and left no dead letter';
COMMENT ON COLUMN treadle.subscription_counts.filtered IS 'Records that the filter left out';
COMMENT ON COLUMN treadle.subscription_counts.expired IS 'Records that were deleted by retention before they were delivered';
CREATE TABLE treadle.subscription_positions (
    subscription bigint NOT NULL,
    topic bigint NOT NULL,
    version bigint DEFAULT 0 NOT NULL,
    tenant text NOT NULL,
    next_offset bigint NOT NULL,
    fresh_offset bigint NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000');
COMMENT ON TABLE treadle.subscription_positions IS 'How far each subscription came in each of its topics, in one row. It moves in the transaction that writes the messages';
COMMENT ON COLUMN treadle.subscription_positions.version IS 'Counts the changes. Part of the key, so that a search finds the newest version first, also past the dead ones that an old snapshot keeps';
COMMENT ON COLUMN treadle.subscription_positions.next_offset IS 'Of the next record that is delivered';
COMMENT ON COLUMN treadle.subscription_positions.fresh_offset IS 'The highest next_offset so far. A record before it was delivered already: it is not delivered again while its message is open';
CREATE TABLE treadle.subscription_topics (
    subscription bigint NOT NULL,
    topic bigint NOT NULL,
    tenant text NOT NULL
);
COMMENT ON TABLE treadle.subscription_topics IS 'The topics that the patterns of each subscription match';
CREATE VIEW treadle._subscription_violations WITH (security_invoker='true') AS
 WITH wrong_position AS (
         SELECT p.subscription,
            p.topic,
            p.version,
            p.tenant,
            p.next_offset,
            p.fresh_offset,
            e.next_offset AS topic_end,
            s.subscription AS name
           FROM (((treadle.subscription_positions p
             JOIN treadle.topics t ON (((t.id = p.topic) AND (t.deleted_at IS NULL))))
             LEFT JOIN treadle.subscriptions s ON ((s.id = p.subscription)))
             CROSS JOIN LATERAL treadle._topic_end(p.topic) e(place, next_offset, bytes))
          WHERE ((s.id IS NULL) OR (p.next_offset > e.next_offset) OR ((p.fresh_offset < p.next_offset) OR (p.fresh_offset > e.next_offset)) OR (p.tenant <> t.tenant) OR (1 < ( SELECT count(*) AS count
                   FROM treadle.subscription_positions o
                  WHERE ((o.subscription = p.subscription) AND (o.topic = p.topic)))))
        ), wrong_join AS (
         SELECT j.subscription,
            j.topic,
            j.tenant
           FROM (treadle.subscription_topics j
             JOIN treadle.topics t ON (((t.id = j.topic) AND (t.deleted_at IS NULL))))
          WHERE (NOT (EXISTS ( SELECT
                   FROM treadle.subscription_positions p
                  WHERE ((p.subscription = j.subscription) AND (p.topic = j.topic)))))
        ), wrong_count AS (
         SELECT s.subscription,
            s.tenant,
            c.open,
            m.found
           FROM ((treadle.subscriptions s
             CROSS JOIN LATERAL ( SELECT COALESCE(sum(d.open), (0)::numeric) AS open
                   FROM treadle.subscription_counts d
                  WHERE (d.subscription = s.id)) c)
             CROSS JOIN LATERAL ( SELECT count(*) AS found
                   FROM treadle.messages o
                  WHERE ((o.subscription = s.id) AND (o.state = ANY (ARRAY['queued'::text, 'processing'::text])))) m)
          WHERE (c.open <> (m.found)::numeric)
        ), doubled AS (
         SELECT m.subscription,
            m.record_topic,
            m.record_offset,
            array_agg(m.message_id) AS messages
           FROM treadle.messages m
          WHERE ((m.subscription IS NOT NULL) AND (m.state = ANY (ARRAY['queued'::text, 'processing'::text])))
          GROUP BY m.subscription, m.record_topic, m.record_offset
         HAVING (count(*) > 1)
        ), wrong_held AS (
         SELECT s.subscription,
            s.held,
            h.found,
            h.passed,
            h.opened
           FROM (treadle.subscriptions s
             CROSS JOIN LATERAL ( SELECT count(*) AS found,
                    bool_and(((p.fresh_offset IS NULL) OR (k."offset" < p.fresh_offset))) AS passed,
                    bool_or((m.message_id IS NOT NULL)) AS opened
                   FROM ((treadle.held_records k
                     LEFT JOIN LATERAL treadle._position_of(k.subscription, k.topic) p(place, version, next_offset, fresh_offset) ON (true))
                     LEFT JOIN treadle.messages m ON (((m.subscription = k.subscription) AND (m.record_topic = k.topic) AND (m.record_offset = k."offset") AND (m.state = ANY (ARRAY['queued'::text, 'processing'::text])))))
                  WHERE (k.subscription = s.id)) h)
          WHERE ((s.held <> h.found) OR (NOT h.passed) OR h.opened)
        ), count_below_mark AS (
         SELECT c.id,
            c.subscription
           FROM treadle.subscription_counts c
          WHERE ((c.id < treadle._low_water_mark('subscription_counts'::text)) AND (NOT (c.id >= ANY ((treadle._mark('subscription_counts'::text)).passed_lows))))
        )
 SELECT 'A position lies in its topic, one for each subscription.'::text AS rule,
    ((v.subscription || ' '::text) || v.topic) AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_position v
UNION ALL
 SELECT 'A subscription has a position in each topic that it reads.'::text AS rule,
    ((v.subscription || ' '::text) || v.topic) AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_join v
UNION ALL
 SELECT 'A subscription counts its open messages.'::text AS rule,
    v.subscription AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_count v
UNION ALL
 SELECT 'A record has at most one open message of a subscription.'::text AS rule,
    ((v.record_topic || ' '::text) || v.record_offset) AS subject,
    to_jsonb(v.*) AS detail
   FROM doubled v
UNION ALL
 SELECT 'A subscription counts the records that it holds, which its positions have passed.'::text AS rule,
    v.subscription AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_held v
UNION ALL
 SELECT 'No count of a subscription lies below its low-water mark.'::text AS rule,
    (v.subscription)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM count_below_mark v;
CREATE TABLE treadle.store_sizes (
    tenant text NOT NULL,
    owner text NOT NULL,
    items bigint DEFAULT 0 NOT NULL,
    bytes bigint DEFAULT 0 NOT NULL,
    slot integer DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');
COMMENT ON TABLE treadle.store_sizes IS 'How many items a store has, and how many bytes they have together: the sum of its rows';
COMMENT ON COLUMN treadle.store_sizes.slot IS 'Each transaction counts in a row that no other one holds';
CREATE TABLE treadle.store_totals (
    tenant text NOT NULL,
    bytes bigint DEFAULT 0 NOT NULL,
    slot integer DEFAULT 0 NOT NULL
)
WITH (fillfactor='50');
COMMENT ON TABLE treadle.store_totals IS 'How many bytes all stores of a tenant have together: the sum of its rows';
COMMENT ON COLUMN treadle.store_totals.slot IS 'Each transaction counts in a row that no other one holds';
CREATE TABLE treadle.tenants (
    tenant text NOT NULL,
    created_at timestamp with time zone NOT NULL,
    suspended_at timestamp with time zone,
    deleted_at timestamp with time zone,
    delete_after uuid,
    delete_awaits text[],
    limits jsonb DEFAULT '{}'::jsonb NOT NULL,
    in_force jsonb,
    CONSTRAINT tenants_tenant_check CHECK ((tenant ~ '^[a-z0-9][a-z0-9_-]{0,39}$'::text))
);
COMMENT ON TABLE treadle.tenants IS 'Isolated customers of this installation; default is there from the start';
COMMENT ON COLUMN treadle.tenants.suspended_at IS 'Since when it may submit nothing and nothing of it is claimed; null: it is active';
COMMENT ON COLUMN treadle.tenants.deleted_at IS 'Since when it is being deleted: it counts as unknown, and its rows are deleted in chunks; the last chunk deletes this row';
COMMENT ON COLUMN treadle.tenants.delete_after IS 'How far the pass of its deletion over all messages came; null: the next pass begins';
COMMENT ON COLUMN treadle.tenants.delete_awaits IS 'Of the transactions that were open at its deletion: those that were still open when the pass began';
COMMENT ON COLUMN treadle.tenants.limits IS 'Limits of its own: queued, per_minute, bytes_per_day';
COMMENT ON COLUMN treadle.tenants.in_force IS 'Its limits with those that the settings declare; null: none';
CREATE TABLE treadle.thread_turns (
    thread bigint NOT NULL,
    version bigint DEFAULT 0 NOT NULL,
    tenant text NOT NULL,
    last_ord bigint DEFAULT 0 NOT NULL,
    turn uuid,
    completed bigint DEFAULT 0 NOT NULL,
    failed bigint DEFAULT 0 NOT NULL,
    cancelled bigint DEFAULT 0 NOT NULL,
    last_activity timestamp with time zone NOT NULL,
    next_high bigint DEFAULT 0 NOT NULL,
    next_normal bigint DEFAULT 0 NOT NULL,
    next_low bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='80', autovacuum_vacuum_scale_factor='0.02', autovacuum_vacuum_threshold='1000');
COMMENT ON TABLE treadle.thread_turns IS 'What changes with each message of a thread: its counts and whose turn it is. One row for each thread, written under the lock of its row in threads';
COMMENT ON COLUMN treadle.thread_turns.version IS 'Counts the changes. Part of the key, so that a search finds the newest version first, also past the dead ones that an old snapshot keeps';
COMMENT ON COLUMN treadle.thread_turns.last_ord IS 'Messages ever submitted; minus completed, failed and cancelled: the open ones';
COMMENT ON COLUMN treadle.thread_turns.turn IS 'The one message of the thread that may run: it is in its lane, running, waiting for a retry, or parked';
COMMENT ON COLUMN treadle.thread_turns.next_high IS 'No message of priority high and a lower ord waits for the turn: the search for the next one begins here';
COMMENT ON COLUMN treadle.thread_turns.next_normal IS 'The same for normal';
COMMENT ON COLUMN treadle.thread_turns.next_low IS 'The same for low';
CREATE VIEW treadle._tenant_violations WITH (security_invoker='true') AS
 WITH of_message AS (
         SELECT 'events'::text AS place,
            e.message_id,
            e.tenant
           FROM treadle.events e
        UNION ALL
         SELECT 'leases'::text,
            l.message_id,
            l.tenant
           FROM treadle.leases l
        UNION ALL
         SELECT 'parked'::text,
            p.message_id,
            p.tenant
           FROM treadle.parked p
        ), owners AS (
         SELECT m.message_id,
            m.tenant
           FROM treadle.messages m
        UNION ALL
         SELECT t.message_id,
            t.tenant
           FROM treadle.trash t
        ), of_thread AS (
         SELECT 'messages'::text AS place,
            m.thread,
            m.tenant
           FROM treadle.messages m
        UNION ALL
         SELECT 'thread_turns'::text,
            s.thread,
            s.tenant
           FROM treadle.thread_turns s
        UNION ALL
         SELECT 'thread_log'::text,
            l.thread,
            l.tenant
           FROM treadle.thread_log l
        ), wrong_parent AS (
         SELECT m.message_id,
            m.tenant,
            p.message_id AS parent,
            p.tenant AS parent_tenant
           FROM (treadle.messages m
             JOIN treadle.messages p ON ((p.message_id = m.parent)))
          WHERE (p.tenant <> m.tenant)
        ), wrong_owner AS (
         SELECT m.message_id,
            m.owner,
            t.thread_id,
            t.owner AS thread_owner
           FROM (treadle.messages m
             JOIN treadle.threads t ON ((t.id = m.thread)))
          WHERE (m.owner IS DISTINCT FROM t.owner)
        ), missing_agent AS (
         SELECT m.message_id,
            m.agent,
            t.thread_id,
            t.agents
           FROM (treadle.messages m
             JOIN treadle.threads t ON ((t.id = m.thread)))
          WHERE (NOT (m.agent = ANY (t.agents)))
        ), held AS (
         SELECT i.tenant,
            i.owner,
            count(*) AS items,
            sum(COALESCE(i.bytes, treadle._item_bytes(i.value))) AS bytes
           FROM treadle.store_items i
          GROUP BY i.tenant, i.owner
        ), counted AS (
         SELECT s.tenant,
            s.owner,
            sum(s.items) AS items,
            sum(s.bytes) AS bytes
           FROM treadle.store_sizes s
          GROUP BY s.tenant, s.owner
         HAVING ((sum(s.items) <> (0)::numeric) OR (sum(s.bytes) <> (0)::numeric))
        ), wrong_store AS (
         SELECT COALESCE(h.tenant, s.tenant) AS tenant,
            COALESCE(h.owner, s.owner) AS owner,
            h.items,
            h.bytes,
            s.items AS counted_items,
            s.bytes AS counted_bytes
           FROM (held h
             FULL JOIN counted s ON (((s.tenant = h.tenant) AND (s.owner = h.owner))))
          WHERE ((((h.items)::numeric IS DISTINCT FROM s.items) OR (h.bytes IS DISTINCT FROM s.bytes)) AND (COALESCE(h.tenant, s.tenant) IN ( SELECT n.tenant
                   FROM treadle.tenants n
                  WHERE (n.deleted_at IS NULL))))
        ), wrong_total AS (
         SELECT t.tenant,
            t.bytes AS counted_bytes,
            s.bytes
           FROM (( SELECT z.tenant,
                    sum(z.bytes) AS bytes
                   FROM treadle.store_totals z
                  GROUP BY z.tenant) t
             LEFT JOIN ( SELECT z.tenant,
                    sum(z.bytes) AS bytes
                   FROM treadle.store_sizes z
                  GROUP BY z.tenant) s ON ((s.tenant = t.tenant)))
          WHERE ((t.bytes <> COALESCE(s.bytes, (0)::numeric)) AND (t.tenant IN ( SELECT n.tenant
                   FROM treadle.tenants n
                  WHERE (n.deleted_at IS NULL))))
        ), unknown_tenant AS (
         SELECT DISTINCT m.tenant
           FROM treadle.messages m
          WHERE (NOT (m.tenant IN ( SELECT n.tenant
                   FROM treadle.tenants n)))
        )
 SELECT 'What belongs to a message has the tenant of the message.'::text AS rule,
    (o.message_id)::text AS subject,
    (to_jsonb(r.*) || to_jsonb(o.*)) AS detail
   FROM (of_message r
     JOIN owners o ON (((o.message_id = r.message_id) AND (o.tenant <> r.tenant))))
UNION ALL
 SELECT 'What belongs to a thread has the tenant of the thread.'::text AS rule,
    t.thread_id AS subject,
    (to_jsonb(r.*) || (to_jsonb(t.*) - 'memory'::text)) AS detail
   FROM (of_thread r
     JOIN treadle.threads t ON (((t.id = r.thread) AND (t.tenant <> r.tenant))))
UNION ALL
 SELECT 'A message has the tenant of the message that sent it.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_parent v
UNION ALL
 SELECT 'A message in a thread has the owner of the thread.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_owner v
UNION ALL
 SELECT 'A thread names the agents of all its messages.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM missing_agent v
UNION ALL
 SELECT 'The tenant of a message exists.'::text AS rule,
    v.tenant AS subject,
    to_jsonb(v.*) AS detail
   FROM unknown_tenant v
UNION ALL
 SELECT 'The size of a store is that of its items.'::text AS rule,
    v.tenant AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_store v
UNION ALL
 SELECT 'The stores of a tenant have as many bytes as are counted for it.'::text AS rule,
    v.tenant AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_total v;
CREATE VIEW treadle._thread_violations WITH (security_invoker='true') AS
 WITH wrong_thread_counts AS (
         SELECT t.id,
            t.thread_id,
            s.last_ord,
            s.completed,
            s.failed,
            s.cancelled,
            f.ords,
            f.completed_found,
            f.failed_found,
            f.cancelled_found
           FROM ((treadle.threads t
             LEFT JOIN treadle.thread_turns s ON ((s.thread = t.id)))
             CROSS JOIN LATERAL ( SELECT array_agg(m.ord ORDER BY m.ord) AS ords,
                    count(*) FILTER (WHERE (m.state = 'completed'::text)) AS completed_found,
                    count(*) FILTER (WHERE (m.state = 'failed'::text)) AS failed_found,
                    count(*) FILTER (WHERE (m.state = 'cancelled'::text)) AS cancelled_found
                   FROM treadle.messages m
                  WHERE (m.thread = t.id)) f)
          WHERE ((s.thread IS NULL) OR ((s.completed <> f.completed_found) OR (s.failed <> f.failed_found) OR (s.cancelled <> f.cancelled_found)) OR (f.ords IS DISTINCT FROM ( SELECT array_agg(o.o) AS array_agg
                   FROM generate_series((1)::bigint, s.last_ord) o(o))))
        ), message_without_thread AS (
         SELECT m.message_id,
            m.thread
           FROM treadle.messages m
          WHERE ((m.thread IS NOT NULL) AND (NOT (EXISTS ( SELECT
                   FROM treadle.threads t
                  WHERE (t.id = m.thread)))))
        ), wrong_turn AS (
         SELECT t.id,
            t.thread_id,
            s.turn,
            m.thread,
            m.state,
            m.hold,
            m.aside
           FROM ((treadle.threads t
             JOIN treadle.thread_turns s ON ((s.thread = t.id)))
             LEFT JOIN treadle.messages m ON ((m.message_id = s.turn)))
          WHERE ((s.turn IS NOT NULL) AND ((m.thread IS DISTINCT FROM t.id) OR m.aside OR (m.state <> ALL (ARRAY['queued'::text, 'processing'::text])) OR (m.hold = ANY (ARRAY['thread'::text, 'delay'::text]))))
        ), message_without_turn AS (
         SELECT t.id,
            t.thread_id,
            s.turn,
            m.message_id,
            m.state,
            m.hold
           FROM ((treadle.threads t
             JOIN treadle.thread_turns s ON ((s.thread = t.id)))
             JOIN treadle.messages m ON (((m.thread = t.id) AND (NOT m.aside) AND (m.message_id IS DISTINCT FROM s.turn))))
          WHERE ((m.state = 'processing'::text) OR ((m.state = 'queued'::text) AND (m.hold IS DISTINCT FROM 'delay'::text) AND ((m.hold IS DISTINCT FROM 'thread'::text) OR (s.turn IS NULL))))
        ), wrong_wait_for_turn AS (
         SELECT m.message_id,
            m.thread,
            m.aside,
            m.ord
           FROM (treadle.messages m
             LEFT JOIN treadle.thread_turns s ON ((s.thread = m.thread)))
          WHERE ((m.hold = 'thread'::text) AND ((m.thread IS NULL) OR m.aside OR (m.ord <
                CASE m.rank
                    WHEN 0 THEN s.next_high
                    WHEN 1 THEN s.next_normal
                    WHEN 2 THEN s.next_low
                    ELSE NULL::bigint
                END)))
        ), stray_turns AS (
         SELECT s.thread,
            s.version
           FROM treadle.thread_turns s
          WHERE ((NOT (EXISTS ( SELECT
                   FROM treadle.threads t
                  WHERE (t.id = s.thread)))) OR (1 < ( SELECT count(*) AS count
                   FROM treadle.thread_turns o
                  WHERE (o.thread = s.thread))))
        )
 SELECT 'A thread''s counts are those of its messages, and their places are dense.'::text AS rule,
    v.thread_id AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_thread_counts v
UNION ALL
 SELECT 'A message''s thread exists.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM message_without_thread v
UNION ALL
 SELECT 'The turn belongs to an open message of the thread that may take one.'::text AS rule,
    v.thread_id AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_turn v
UNION ALL
 SELECT 'In a thread only the message with the turn may run, and messages wait only while one has the turn.'::text AS rule,
    v.thread_id AS subject,
    to_jsonb(v.*) AS detail
   FROM message_without_turn v
UNION ALL
 SELECT 'Only messages that take turns in a thread wait for one, and where the search for the next one finds them.'::text AS rule,
    (v.message_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_wait_for_turn v
UNION ALL
 SELECT 'Turns belong to a thread, one row for each.'::text AS rule,
    (v.thread)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM stray_turns v;
CREATE TABLE treadle.records (
    record_id uuid NOT NULL,
    tenant text NOT NULL,
    topic bigint NOT NULL,
    key text,
    headers jsonb DEFAULT '{}'::jsonb NOT NULL,
    value jsonb NOT NULL,
    bytes integer NOT NULL,
    schema_id integer,
    created_at timestamp with time zone NOT NULL,
    traceparent text,
    depth smallint,
    CONSTRAINT records_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255)))
)
PARTITION BY RANGE (record_id);
COMMENT ON TABLE treadle.records IS 'What was published. A record without an offset is still in the PGMQ queue treadle_inbox';
COMMENT ON COLUMN treadle.records.topic IS 'topics.id';
COMMENT ON COLUMN treadle.records.key IS 'Records of one key are handled in order; null: this one has no order';
COMMENT ON COLUMN treadle.records.bytes IS 'Of key, headers and value, before compression';
COMMENT ON COLUMN treadle.records.schema_id IS 'The registered schema that value satisfies; null: none';
COMMENT ON COLUMN treadle.records.traceparent IS 'W3C trace context of the publish; null: it had none';
COMMENT ON COLUMN treadle.records.depth IS 'Messages above the one whose attempt published it; null: a client did';
CREATE TABLE treadle.topic_ends (
    topic bigint NOT NULL,
    next_offset bigint DEFAULT 0 NOT NULL,
    tenant text NOT NULL,
    bytes bigint DEFAULT 0 NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000');
COMMENT ON TABLE treadle.topic_ends IS 'Where each topic ends, in one row. Only the router writes it, so a publisher waits for nothing';
COMMENT ON COLUMN treadle.topic_ends.topic IS 'topics.id';
COMMENT ON COLUMN treadle.topic_ends.next_offset IS 'Only rises. Part of the key, so that a search finds the newest version first, also past the dead ones that an old snapshot keeps';
COMMENT ON COLUMN treadle.topic_ends.bytes IS 'Of all records that ever got an offset';
CREATE TABLE treadle.topic_log (
    topic bigint NOT NULL,
    "offset" bigint NOT NULL,
    tenant text NOT NULL,
    record_id uuid NOT NULL,
    CONSTRAINT topic_log_offset_check CHECK (("offset" >= 0))
);
COMMENT ON TABLE treadle.topic_log IS 'The records of each topic in their order: dense from its first_offset to its end';
CREATE VIEW treadle._topic_violations WITH (security_invoker='true') AS
 WITH live AS MATERIALIZED (
         SELECT t.id,
            t.tenant,
            t.topic,
            t.first_offset,
            e.next_offset,
            e.ends
           FROM (treadle.topics t
             LEFT JOIN ( SELECT n.topic,
                    max(n.next_offset) AS next_offset,
                    count(*) AS ends
                   FROM treadle.topic_ends n
                  GROUP BY n.topic) e ON ((e.topic = t.id)))
          WHERE (t.deleted_at IS NULL)
        ), waiting AS MATERIALIZED (
         SELECT (i.id)::uuid AS record_id,
            ((q.message ->> 'topic'::text))::bigint AS topic,
            q.msg_id
           FROM (pgmq.q_treadle_inbox q
             CROSS JOIN LATERAL jsonb_array_elements_text((q.message -> 'record_ids'::text)) i(id))
        ), wrong_log AS (
         SELECT l.id,
            l.tenant,
            l.topic,
            l.first_offset,
            l.next_offset,
            l.ends,
            g.records,
            g.first,
            g.last
           FROM (live l
             LEFT JOIN LATERAL ( SELECT count(*) AS records,
                    min(o."offset") AS first,
                    max(o."offset") AS last
                   FROM treadle.topic_log o
                  WHERE ((o.topic = l.id) AND (o."offset" >= l.first_offset))) g ON (true))
          WHERE ((l.ends IS DISTINCT FROM 1) OR (g.records <> GREATEST((l.next_offset - l.first_offset), (0)::bigint)) OR (g.last >= l.next_offset))
        ), wrong_record AS (
         SELECT l.topic,
            g."offset",
            g.record_id,
            r.topic AS record_topic
           FROM ((live l
             JOIN treadle.topic_log g ON ((g.topic = l.id)))
             LEFT JOIN treadle.records r ON ((r.record_id = g.record_id)))
          WHERE ((r.topic IS DISTINCT FROM g.topic) OR (r.tenant <> g.tenant) OR (r.tenant <> l.tenant))
        ), wrong_place AS (
         SELECT r.record_id,
            l.topic,
            p.places
           FROM ((treadle.records r
             JOIN live l ON ((l.id = r.topic)))
             LEFT JOIN ( SELECT u.record_id,
                    count(*) AS places
                   FROM ( SELECT g.record_id
                           FROM treadle.topic_log g
                        UNION ALL
                         SELECT w.record_id
                           FROM waiting w) u
                  GROUP BY u.record_id) p ON ((p.record_id = r.record_id)))
          WHERE (p.places IS DISTINCT FROM 1)
        ), stray_inbox AS (
         SELECT w.record_id,
            w.topic,
            w.msg_id
           FROM (waiting w
             JOIN live l ON ((l.id = w.topic)))
          WHERE (NOT (EXISTS ( SELECT
                   FROM treadle.records r
                  WHERE ((r.record_id = w.record_id) AND (r.topic = w.topic)))))
        ), below_mark AS (
         SELECT q.msg_id
           FROM pgmq.q_treadle_inbox q
          WHERE ((q.msg_id < treadle._low_water_mark('inbox'::text)) AND (NOT (q.msg_id >= ANY ((treadle._mark('inbox'::text)).passed_lows))))
        )
 SELECT 'The offsets of a topic are dense from its first to its end.'::text AS rule,
    v.topic AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_log v
UNION ALL
 SELECT 'What has an offset is a record of the topic.'::text AS rule,
    (v.record_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_record v
UNION ALL
 SELECT 'A record has one offset or waits for it in the inbox.'::text AS rule,
    (v.record_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM wrong_place v
UNION ALL
 SELECT 'What waits in the inbox is a record.'::text AS rule,
    (v.record_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM stray_inbox v
UNION ALL
 SELECT 'No row of the inbox lies below its low-water mark.'::text AS rule,
    (v.msg_id)::text AS subject,
    to_jsonb(v.*) AS detail
   FROM below_mark v;
CREATE VIEW treadle.agent_overview WITH (security_invoker='true') AS
 SELECT agent,
    queue,
    timeout_seconds,
    max_attempts,
    is_default,
    input,
    description,
    registered_at,
    settings
   FROM treadle.agents a;
COMMENT ON VIEW treadle.agent_overview IS 'Every agent that a worker has registered';
CREATE TABLE treadle.alembic_version (
    version_num character varying(32) NOT NULL
);
ALTER TABLE treadle.audit ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE treadle.callback_secrets (
    tenant text NOT NULL,
    secrets jsonb NOT NULL,
    CONSTRAINT callback_secrets_secrets_check CHECK ((jsonb_typeof(secrets) = 'array'::text))
);
COMMENT ON TABLE treadle.callback_secrets IS 'What signs the deliveries to the callback_url of messages, as in treadle.webhooks.secrets';
ALTER TABLE treadle.counters ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.counters_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE treadle.queues (
    queue text NOT NULL,
    paused boolean DEFAULT false NOT NULL,
    concurrency integer,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT queues_concurrency_check CHECK ((concurrency >= 1)),
    CONSTRAINT queues_queue_check CHECK ((queue ~ '^[a-z][a-z0-9_]{0,39}$'::text))
);
COMMENT ON TABLE treadle.queues IS 'Named streams of work; each is four PGMQ queues: <queue>_high, _normal, _low and _dlq';
COMMENT ON COLUMN treadle.queues.paused IS 'While true, workers claim nothing; submits are still accepted';
COMMENT ON COLUMN treadle.queues.concurrency IS 'How many of its messages may run at once, on all workers together; null: no limit';
CREATE VIEW treadle.dead_letters WITH (security_invoker='true') AS
 SELECT q.queue,
    treadle._uuid((d.body ->> 'message_id'::text)) AS message_id,
    d.dead_at,
    (d.body ->> 'reason'::text) AS reason,
        CASE
            WHEN ((d.body ->> 'attempts'::text) ~ '^[0-9]{1,9}$'::text) THEN ((d.body ->> 'attempts'::text))::integer
            ELSE NULL::integer
        END AS attempts,
    (d.body ->> 'thread_id'::text) AS thread_id,
    (d.body ->> 'agent'::text) AS agent,
    m.body AS user_message,
    (d.body ->> 'traceback'::text) AS traceback,
    d.dlq_id,
    d.body,
    COALESCE((d.body ->> 'tenant'::text), 'default'::text) AS tenant
   FROM ((treadle.queues q
     CROSS JOIN LATERAL treadle._dead_letters(q.queue, 1000) d(dlq_id, dead_at, body))
     LEFT JOIN treadle.messages m ON ((m.message_id = treadle._uuid((d.body ->> 'message_id'::text)))));
COMMENT ON VIEW treadle.dead_letters IS 'The newest 1,000 dead letters of each queue; bring one back with select treadle.redrive(message_id)';
CREATE TABLE treadle.events_default (
    message_id uuid CONSTRAINT events_message_id_not_null NOT NULL,
    seq integer CONSTRAINT events_seq_not_null NOT NULL,
    tenant text CONSTRAINT events_tenant_not_null NOT NULL,
    thread bigint,
    thread_pos bigint,
    type text CONSTRAINT events_type_not_null NOT NULL,
    data jsonb,
    created_at timestamp with time zone CONSTRAINT events_created_at_not_null NOT NULL,
    CONSTRAINT events_seq_check CHECK ((seq >= 1))
);
CREATE TABLE treadle.idempotency (
    tenant text NOT NULL,
    restriction bytea NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    answer jsonb,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT idempotency_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255)))
);
COMMENT ON TABLE treadle.idempotency IS 'The first answer to each Idempotency-Key, kept for 24 hours';
COMMENT ON COLUMN treadle.idempotency.restriction IS 'SHA-256 of what restricts the principal within its tenant, empty for nothing: principals that see different rows share no keys';
CREATE TABLE treadle.meta (
    name text NOT NULL,
    value text NOT NULL
);
COMMENT ON TABLE treadle.meta IS 'Facts about this installation: the release of the functions, the version of PGMQ, the declared default agent';
CREATE VIEW treadle.queue_counts WITH (security_invoker='true') AS
 SELECT queue,
    (sum(queued))::bigint AS queued,
    (sum(processing))::bigint AS processing,
    (sum(completed))::bigint AS completed,
    (sum(failed))::bigint AS failed,
    (sum(cancelled))::bigint AS cancelled
   FROM treadle.counters c
  WHERE (id >= treadle._first_counter())
  GROUP BY queue;
COMMENT ON VIEW treadle.queue_counts IS 'How many messages of each queue are in which state; exact, and cheap to read';
CREATE VIEW treadle.installation WITH (security_invoker='true') AS
 SELECT ( SELECT m.value
           FROM treadle.meta m
          WHERE (m.name = 'release'::text)) AS release,
    ( SELECT m.value
           FROM treadle.meta m
          WHERE (m.name = 'functions'::text)) AS functions,
    ( SELECT m.value
           FROM treadle.meta m
          WHERE (m.name = 'pgmq'::text)) AS pgmq,
    current_setting('server_version'::text) AS postgresql,
    ( SELECT count(*) AS count
           FROM treadle.workers) AS workers,
    ( SELECT (COALESCE(sum(c.queued), (0)::numeric))::bigint AS "coalesce"
           FROM treadle.queue_counts c) AS queued,
    ( SELECT (COALESCE(sum(c.processing), (0)::numeric))::bigint AS "coalesce"
           FROM treadle.queue_counts c) AS processing;
COMMENT ON VIEW treadle.installation IS 'One row: the versions of this installation, its workers and its load';
COMMENT ON COLUMN treadle.installation.functions IS 'A digest of the SQL files that were applied';
CREATE TABLE treadle.instances (
    worker_id text NOT NULL,
    thread bigint NOT NULL,
    agent text NOT NULL,
    tenant text NOT NULL,
    made_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE treadle.instances IS 'What agents keep in the memory of a worker for a thread: a report, up to some seconds old';
COMMENT ON COLUMN treadle.instances.thread IS 'Key of a thread, which may be deleted by now';
CREATE VIEW treadle.instance_overview WITH (security_invoker='true') AS
 SELECT i.agent,
    t.thread_id,
    i.worker_id,
    i.made_at,
    (GREATEST(EXTRACT(epoch FROM (treadle.clock() - i.made_at)), (0)::numeric))::double precision AS age_seconds,
    i.tenant,
    t.owner,
    t.agents
   FROM (treadle.instances i
     JOIN treadle.threads t ON ((t.id = i.thread)));
COMMENT ON VIEW treadle.instance_overview IS 'The warm instances that workers keep, by a report of the last seconds';
COMMENT ON COLUMN treadle.instance_overview.agents IS 'The agents of the thread';
CREATE TABLE treadle.lane_shares (
    id bigint NOT NULL,
    tenant text NOT NULL,
    queue text NOT NULL,
    lane text NOT NULL,
    ready bigint NOT NULL,
    behind bigint DEFAULT 0 NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000', autovacuum_vacuum_cost_delay='0');
COMMENT ON TABLE treadle.lane_shares IS 'Deltas of how many visible rows each tenant has in a lane, while there is more than one tenant. The janitor counts them again';
COMMENT ON COLUMN treadle.lane_shares.behind IS 'Of them, those that do not go before the rows of other tenants';
ALTER TABLE treadle.lane_shares ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.lane_shares_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE treadle.lane_surplus (
    tenant text NOT NULL,
    queue text NOT NULL,
    lane text NOT NULL
);
COMMENT ON TABLE treadle.lane_surplus IS 'The tenants that have many more rows in a lane than their share, because they were alone when they submitted them. The janitor sets those aside';
CREATE TABLE treadle.late_cancels (
    xid bigint NOT NULL,
    n bigint NOT NULL,
    message_id uuid NOT NULL,
    tenant text NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000');
COMMENT ON TABLE treadle.late_cancels IS 'Running messages whose cancellation is requested when this transaction (xid) commits; the same transaction deletes the rows';
ALTER TABLE treadle.late_cancels ALTER COLUMN n ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.late_cancels_n_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE treadle.late_charges (
    xid bigint NOT NULL,
    n bigint NOT NULL,
    tenant text NOT NULL,
    messages bigint NOT NULL,
    bytes bigint NOT NULL,
    records bigint DEFAULT 0 NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000');
COMMENT ON TABLE treadle.late_charges IS 'Submits and publishes that are charged to their tenant when their transaction (xid) commits; the same transaction deletes the rows';
ALTER TABLE treadle.late_charges ALTER COLUMN n ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.late_charges_n_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE treadle.late_events (
    xid bigint NOT NULL,
    n bigint NOT NULL,
    message_id uuid NOT NULL,
    seq integer NOT NULL,
    tenant text NOT NULL,
    thread bigint NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000');
COMMENT ON TABLE treadle.late_events IS 'Events that get their thread_pos when their transaction (xid) commits; the same transaction deletes the rows';
ALTER TABLE treadle.late_events ALTER COLUMN n ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.late_events_n_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
ALTER TABLE treadle.leases ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.leases_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE treadle.lost_rows (
    message_id uuid NOT NULL,
    queue text NOT NULL,
    lane text NOT NULL,
    lane_id bigint NOT NULL
);
ALTER TABLE ONLY treadle.lost_rows REPLICA IDENTITY FULL;
COMMENT ON TABLE treadle.lost_rows IS 'Lane rows that a truncate (pgmq.purge_queue) removed; the janitor gives their messages new ones';
CREATE VIEW treadle.message_overview WITH (security_invoker='true') AS
 SELECT m.message_id,
    m.state,
    m.hold,
    m.body AS user_message,
    m.priority,
    m.created_at,
    m.started_at,
    m.completed_at,
    m.result,
    m.error,
    t.thread_id,
    m.agent,
    m.queue,
    m.attempt,
    m.max_attempts,
    m.failures,
    m.losses,
    m.run_at,
    m.worker_id,
    m.metadata,
    m.usage,
    m.timeout_seconds,
    m.ord,
    m.aside,
    m.thread,
    m.tenant,
    m.parent,
    ( SELECT p.children
           FROM treadle.parked p
          WHERE ((p.message_id = m.message_id) AND (m.hold = 'children'::text))) AS children,
        CASE
            WHEN (m.hold = 'input'::text) THEN ( SELECT e.data
               FROM treadle.events e
              WHERE ((e.message_id = m.message_id) AND (e.seq = m.last_seq)))
            ELSE NULL::jsonb
        END AS asks,
    m.owner,
    m.interrupted,
    m.callback_url
   FROM (treadle.messages m
     LEFT JOIN treadle.threads t ON ((t.id = m.thread)));
COMMENT ON VIEW treadle.message_overview IS 'Every message with its thread''s id; state and hold say where it stands';
COMMENT ON COLUMN treadle.message_overview.children IS 'The messages that it waits for (hold = children)';
COMMENT ON COLUMN treadle.message_overview.asks IS 'The question that it waits with (hold = input)';
CREATE TABLE treadle.mutexes (
    name text NOT NULL
);
COMMENT ON TABLE treadle.mutexes IS 'A transaction locks a row to do the work of that name alone. Any login role of the server can take an advisory lock, but only Treadle can lock these rows';
CREATE TABLE treadle.push_configs (
    message_id uuid NOT NULL,
    config_id text NOT NULL,
    tenant text NOT NULL,
    url text NOT NULL,
    token text,
    scheme text,
    credentials text,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT push_configs_url_check CHECK (((length(url) >= 1) AND (length(url) <= 2000)))
);
COMMENT ON TABLE treadle.push_configs IS 'Addresses at which the client of a task of A2A, which is a message, wants to be told of it';
COMMENT ON COLUMN treadle.push_configs.token IS 'The client''s own, in the header X-A2A-Notification-Token of each notification';
COMMENT ON COLUMN treadle.push_configs.scheme IS 'With credentials the header Authorization of each notification';
CREATE VIEW treadle.queue_overview WITH (security_invoker='true') AS
 SELECT q.queue,
    q.paused,
    n.queued,
    n.processing,
    n.completed,
    n.failed,
    n.cancelled,
    r.ready,
        CASE
            WHEN (r.oldest IS NOT NULL) THEN (GREATEST(EXTRACT(epoch FROM (treadle.clock() - r.oldest)), (0)::numeric))::double precision
            ELSE NULL::double precision
        END AS oldest_seconds,
    n.finished_per_minute,
    n.mean_seconds,
    q.created_at,
    treadle._claiming_workers(q.queue) AS workers
   FROM ((treadle.queues q
     CROSS JOIN LATERAL treadle._queue_figures(queue => q.queue, tenant => NULL::text) n(queued, processing, completed, failed, cancelled, finished_per_minute, mean_seconds))
     CROSS JOIN LATERAL treadle._ready_rows(q.queue) r(ready, oldest));
COMMENT ON VIEW treadle.queue_overview IS 'Every queue: messages by state, how many are ready for a worker, how old the oldest is, how fast they go';
COMMENT ON COLUMN treadle.queue_overview.ready IS 'Lane rows a worker could claim now; exact to 1,000 a lane';
COMMENT ON COLUMN treadle.queue_overview.finished_per_minute IS 'Messages completed or failed in the last full minute';
COMMENT ON COLUMN treadle.queue_overview.mean_seconds IS 'Mean processing time of the last five minutes';
CREATE TABLE treadle.records_default (
    record_id uuid CONSTRAINT records_record_id_not_null NOT NULL,
    tenant text CONSTRAINT records_tenant_not_null NOT NULL,
    topic bigint CONSTRAINT records_topic_not_null NOT NULL,
    key text,
    headers jsonb DEFAULT '{}'::jsonb CONSTRAINT records_headers_not_null NOT NULL,
    value jsonb CONSTRAINT records_value_not_null NOT NULL,
    bytes integer CONSTRAINT records_bytes_not_null NOT NULL,
    schema_id integer,
    created_at timestamp with time zone CONSTRAINT records_created_at_not_null NOT NULL,
    traceparent text,
    depth smallint,
    CONSTRAINT records_key_check CHECK (((length(key) >= 1) AND (length(key) <= 255)))
);
CREATE TABLE treadle.schema_ends (
    tenant text NOT NULL,
    next_id integer NOT NULL,
    CONSTRAINT schema_ends_next_id_check CHECK ((next_id > 0))
);
COMMENT ON TABLE treadle.schema_ends IS 'The next schema_id of each tenant. An id is never given twice: clients keep schemas by id for ever. A transaction that changes schemas of the tenant locks the row';
CREATE TABLE treadle.schema_versions (
    tenant text NOT NULL,
    subject text NOT NULL,
    version integer NOT NULL,
    schema_id integer NOT NULL,
    created_at timestamp with time zone NOT NULL,
    deleted_at timestamp with time zone,
    CONSTRAINT schema_versions_subject_check CHECK (((length(subject) >= 1) AND (length(subject) <= 255))),
    CONSTRAINT schema_versions_version_check CHECK ((version > 0))
);
COMMENT ON TABLE treadle.schema_versions IS 'The versions of each subject';
COMMENT ON COLUMN treadle.schema_versions.deleted_at IS 'Since when no new reader finds it by its subject; readers of old data still find it by its schema_id';
CREATE TABLE treadle.schemas (
    tenant text NOT NULL,
    schema_id integer NOT NULL,
    kind text NOT NULL,
    schema text NOT NULL,
    refs jsonb DEFAULT '[]'::jsonb NOT NULL,
    extras jsonb,
    descriptor bytea,
    digest uuid NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT schemas_check CHECK (((descriptor IS NULL) = (kind = 'JSON'::text))),
    CONSTRAINT schemas_kind_check CHECK ((kind = ANY (ARRAY['JSON'::text, 'PROTOBUF'::text]))),
    CONSTRAINT schemas_refs_check CHECK ((jsonb_typeof(refs) = 'array'::text)),
    CONSTRAINT schemas_schema_id_check CHECK ((schema_id > 0))
);
COMMENT ON TABLE treadle.schemas IS 'Schemas by id. One schema has one id, in however many subjects it is';
COMMENT ON COLUMN treadle.schemas.schema IS 'As it was registered: JSON, or for Protobuf the text of a .proto file or base64 of its descriptor';
COMMENT ON COLUMN treadle.schemas.refs IS 'The schemas that it imports: [{"name", "subject", "version"}]';
COMMENT ON COLUMN treadle.schemas.extras IS 'What clients keep with it and the service does not read: {"metadata", "ruleSet"}';
COMMENT ON COLUMN treadle.schemas.descriptor IS 'Of Protobuf: the FileDescriptorProto';
COMMENT ON COLUMN treadle.schemas.digest IS 'Of its kind, its content without what has no meaning (white space, comments) and its refs';
CREATE VIEW treadle.schema_overview WITH (security_invoker='true') AS
 SELECT v.tenant,
    v.subject,
    v.version,
    v.schema_id,
    s.kind,
    s.schema,
    s.refs,
    s.extras,
    s.descriptor,
    s.digest,
    v.created_at,
    v.deleted_at
   FROM (treadle.schema_versions v
     JOIN treadle.schemas s ON (((s.tenant = v.tenant) AND (s.schema_id = v.schema_id))));
COMMENT ON VIEW treadle.schema_overview IS 'The versions of all subjects with their schemas';
CREATE TABLE treadle.schema_rules (
    tenant text NOT NULL,
    subject text NOT NULL,
    rule text NOT NULL,
    value text NOT NULL,
    CONSTRAINT schema_rules_check CHECK (
CASE rule
    WHEN 'compatibility'::text THEN (value = ANY (ARRAY['NONE'::text, 'BACKWARD'::text, 'BACKWARD_TRANSITIVE'::text, 'FORWARD'::text, 'FORWARD_TRANSITIVE'::text, 'FULL'::text, 'FULL_TRANSITIVE'::text]))
    WHEN 'mode'::text THEN (value = ANY (ARRAY['READWRITE'::text, 'READONLY'::text]))
    ELSE false
END)
);
COMMENT ON TABLE treadle.schema_rules IS 'What a subject allows: which changes between versions (compatibility), and whether any (mode)';
COMMENT ON COLUMN treadle.schema_rules.subject IS 'Empty: all subjects that have no such rule';
CREATE TABLE treadle.secrets (
    name text NOT NULL,
    value bytea NOT NULL,
    created_at timestamp with time zone NOT NULL,
    CONSTRAINT secrets_value_check CHECK ((length(value) >= 32))
);
COMMENT ON TABLE treadle.secrets IS 'What all processes of the installation share: the secret that signs access tokens';
CREATE TABLE treadle.sql_roles (
    role text NOT NULL,
    tenant text NOT NULL,
    created_at timestamp with time zone NOT NULL
);
COMMENT ON TABLE treadle.sql_roles IS 'Login roles of SQL users, each bound to one tenant (treadle tenants sql-role)';
CREATE VIEW treadle.stats WITH (security_invoker='true') AS
 SELECT at,
    seconds,
    tenant,
    queue,
    agent,
    submitted,
    completed,
    failed,
    retried,
    cancelled,
    lost,
    treadle._quantile(waits, (0.5)::double precision) AS wait_p50,
    treadle._quantile(waits, (0.95)::double precision) AS wait_p95,
    treadle._quantile(waits, (0.99)::double precision) AS wait_p99,
    treadle._quantile(runs, (0.5)::double precision) AS run_p50,
    treadle._quantile(runs, (0.95)::double precision) AS run_p95,
    treadle._quantile(runs, (0.99)::double precision) AS run_p99,
    treadle._quantile(first_chunks, (0.5)::double precision) AS first_chunk_p50,
    treadle._quantile(first_chunks, (0.95)::double precision) AS first_chunk_p95,
    treadle._quantile(first_chunks, (0.99)::double precision) AS first_chunk_p99,
    input_tokens,
    output_tokens,
    cost
   FROM treadle.stat_rows s;
COMMENT ON VIEW treadle.stats IS 'What happened in each minute and each hour, by tenant, queue and agent';
CREATE VIEW treadle.store_overview WITH (security_invoker='true') AS
 SELECT namespace,
    key,
    value,
    owner,
    created_at,
    updated_at,
    tenant
   FROM treadle.store_items i;
COMMENT ON VIEW treadle.store_overview IS 'The stores: what clients and agents keep beside threads';
ALTER TABLE treadle.subscription_counts ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.subscription_counts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE VIEW treadle.subscription_overview WITH (security_invoker='true') AS
 SELECT s.tenant,
    s.subscription,
    s.topics,
    s.agent,
    s.delivery,
    s.max_in_flight,
    s.filter,
    s.dead_letter,
    s.paused,
    l.lag,
    COALESCE(c.open, (0)::bigint) AS open,
    COALESCE(c.completed, (0)::bigint) AS completed,
    COALESCE(c.failed, (0)::bigint) AS failed,
    COALESCE(c.cancelled, (0)::bigint) AS cancelled,
    COALESCE(c.dropped, (0)::bigint) AS dropped,
    COALESCE(c.filtered, (0)::bigint) AS filtered,
    COALESCE(c.expired, (0)::bigint) AS expired,
    l.positions,
    s.created_at,
    s.held
   FROM ((treadle.subscriptions s
     CROSS JOIN LATERAL ( SELECT (COALESCE(sum(b.lag), (0)::numeric))::bigint AS lag,
            COALESCE(jsonb_agg(jsonb_build_object('topic', b.topic, 'next_offset', b.next_offset, 'lag', b.lag) ORDER BY b.topic), '[]'::jsonb) AS positions
           FROM ( SELECT t.topic,
                    p.next_offset,
                    (GREATEST((e.next_offset - GREATEST(p.next_offset, t.first_offset)), (0)::bigint) + ( SELECT count(*) AS count
                           FROM treadle.held_records h
                          WHERE ((h.subscription = j.subscription) AND (h.topic = j.topic) AND (h."offset" < p.next_offset)))) AS lag
                   FROM (((treadle.subscription_topics j
                     JOIN treadle.topics t ON (((t.id = j.topic) AND (t.deleted_at IS NULL))))
                     CROSS JOIN LATERAL treadle._position_of(j.subscription, j.topic) p(place, version, next_offset, fresh_offset))
                     CROSS JOIN LATERAL treadle._topic_end(j.topic) e(place, next_offset, bytes))
                  WHERE (j.subscription = s.id)) b) l)
     CROSS JOIN LATERAL ( SELECT (sum(d.open))::bigint AS open,
            (sum(d.completed))::bigint AS completed,
            (sum(d.failed))::bigint AS failed,
            (sum(d.cancelled))::bigint AS cancelled,
            (sum(d.dropped))::bigint AS dropped,
            (sum(d.filtered))::bigint AS filtered,
            (sum(d.expired))::bigint AS expired
           FROM treadle.subscription_counts d
          WHERE (d.subscription = s.id)) c);
COMMENT ON VIEW treadle.subscription_overview IS 'Every subscription: how far it is behind, and what became of its records';
ALTER TABLE treadle.subscriptions ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.subscriptions_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE VIEW treadle.tenant_counts WITH (security_invoker='true') AS
 SELECT tenant,
    queue,
    (sum(queued))::bigint AS queued,
    (sum(processing))::bigint AS processing,
    (sum(completed))::bigint AS completed,
    (sum(failed))::bigint AS failed,
    (sum(cancelled))::bigint AS cancelled
   FROM treadle.counters c
  WHERE (id >= treadle._first_counter())
  GROUP BY tenant, queue;
COMMENT ON VIEW treadle.tenant_counts IS 'How many messages of each tenant and queue are in which state';
CREATE VIEW treadle.tenant_overview WITH (security_invoker='true') AS
 SELECT t.tenant,
    t.created_at,
    t.suspended_at,
    t.deleted_at,
    t.limits,
    c.queued,
    c.processing,
    COALESCE(cardinality(t.delete_awaits), 0) AS awaited_transactions
   FROM (treadle.tenants t
     CROSS JOIN LATERAL ( SELECT (COALESCE(sum(c_1.queued), (0)::numeric))::bigint AS queued,
            (COALESCE(sum(c_1.processing), (0)::numeric))::bigint AS processing
           FROM treadle.counters c_1
          WHERE ((c_1.tenant = t.tenant) AND (c_1.id >= treadle._first_counter()))) c);
COMMENT ON VIEW treadle.tenant_overview IS 'Every tenant, with its open messages';
CREATE TABLE treadle.tenant_use (
    tenant text NOT NULL,
    arrival timestamp with time zone NOT NULL,
    day date NOT NULL,
    bytes bigint NOT NULL
)
WITH (fillfactor='50', autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='1000');
COMMENT ON TABLE treadle.tenant_use IS 'What tenants with limits used of them';
COMMENT ON COLUMN treadle.tenant_use.arrival IS 'The theoretical arrival time of the next message (GCRA)';
CREATE VIEW treadle.thread_overview WITH (security_invoker='true') AS
 SELECT t.thread_id,
    s.last_ord AS message_count,
    t.created_at,
    s.last_activity,
    ((((s.last_ord - s.completed) - s.failed) - s.cancelled) - p.processing) AS queued,
    p.processing,
    s.completed,
    s.failed,
    s.cancelled,
    s.turn,
    t.metadata,
    ( SELECT "left"(
                CASE jsonb_typeof(m.body)
                    WHEN 'string'::text THEN (m.body #>> '{}'::text[])
                    ELSE (m.body)::text
                END, 200) AS "left"
           FROM treadle.messages m
          WHERE (m.thread = t.id)
          ORDER BY m.ord DESC
         LIMIT 1) AS last_message_preview,
    s.thread,
    s.tenant,
    t.memory,
    t.owner,
    t.agents
   FROM ((treadle.threads t
     JOIN treadle.thread_turns s ON (((s.thread = t.id) AND (s.version >= ( SELECT max(n.version) AS max
           FROM treadle.thread_turns n
          WHERE (n.thread = t.id))))))
     CROSS JOIN LATERAL ( SELECT count(*) AS processing
           FROM treadle.leases l
          WHERE ((l.thread = t.id) AND (l.id >= ( SELECT treadle._first_lease_mark() AS _first_lease_mark)))) p);
COMMENT ON VIEW treadle.thread_overview IS 'Every thread: how many of its messages are in which state, and whose turn it is';
ALTER TABLE treadle.threads ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.threads_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE VIEW treadle.topic_overview WITH (security_invoker='true') AS
 SELECT t.tenant,
    t.topic,
    t.retention_hours,
    t.max_record_bytes,
    t.schema_subject,
    LEAST(t.first_offset, e.next_offset) AS first_offset,
    e.next_offset,
    GREATEST((e.next_offset - t.first_offset), (0)::bigint) AS records,
    (e.bytes - t.purged_bytes) AS bytes,
    (e.next_offset - treadle._first_offset_since(t.id, (treadle.clock() - '00:01:00'::interval))) AS records_per_minute,
    ( SELECT COALESCE(jsonb_agg(jsonb_build_object('subscription', s.subscription, 'next_offset', p.next_offset, 'lag', (GREATEST((e.next_offset - GREATEST(p.next_offset, t.first_offset)), (0)::bigint) + ( SELECT count(*) AS count
                   FROM treadle.held_records h
                  WHERE ((h.subscription = j.subscription) AND (h.topic = j.topic) AND (h."offset" < p.next_offset))))) ORDER BY s.subscription), '[]'::jsonb) AS "coalesce"
           FROM ((treadle.subscription_topics j
             JOIN treadle.subscriptions s ON ((s.id = j.subscription)))
             CROSS JOIN LATERAL treadle._position_of(j.subscription, j.topic) p(place, version, next_offset, fresh_offset))
          WHERE (j.topic = t.id)) AS subscriptions,
    t.created_at
   FROM (treadle.topics t
     CROSS JOIN LATERAL treadle._topic_end(t.id) e(place, next_offset, bytes))
  WHERE (t.deleted_at IS NULL);
COMMENT ON VIEW treadle.topic_overview IS 'Every topic: its offsets, its size, and the subscriptions that read it';
ALTER TABLE treadle.topics ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME treadle.topics_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE VIEW treadle.violations WITH (security_invoker='true') AS
 SELECT rule,
    subject,
    detail
   FROM treadle._violations() v(rule, subject, detail);
COMMENT ON VIEW treadle.violations IS 'Exceptions to the invariants: empty in a healthy database. Reads everything, so it takes its time';
CREATE TABLE treadle.webhook_outcomes (
    webhook_id uuid NOT NULL,
    tenant text NOT NULL,
    at timestamp with time zone NOT NULL,
    message_id uuid NOT NULL,
    status integer,
    error text,
    succeeded_at timestamp with time zone,
    failing_since timestamp with time zone
)
WITH (fillfactor='50');
COMMENT ON TABLE treadle.webhook_outcomes IS 'How the last deliveries to each webhook went. A worker writes a change at once, and a repeat every ten seconds';
COMMENT ON COLUMN treadle.webhook_outcomes.message_id IS 'The delivery';
COMMENT ON COLUMN treadle.webhook_outcomes.status IS 'Of the answer; null: there was none';
COMMENT ON COLUMN treadle.webhook_outcomes.error IS 'Null: it was delivered';
CREATE VIEW treadle.worker_overview WITH (security_invoker='true') AS
 SELECT worker_id,
    host,
    pid,
    queues,
    concurrency,
    ( SELECT count(*) AS count
           FROM treadle.leases l
          WHERE ((l.id >= treadle._low_water_mark('leases'::text)) AND (l.worker_id = w.worker_id))) AS in_flight,
    started_at,
    heartbeat_at,
    (GREATEST(EXTRACT(epoch FROM (treadle.clock() - heartbeat_at)), (0)::numeric))::double precision AS silent_seconds,
    memory_bytes
   FROM treadle.workers w;
COMMENT ON VIEW treadle.worker_overview IS 'Workers that have neither signed off nor been reaped';
ALTER TABLE ONLY treadle.events ATTACH PARTITION treadle.events_default DEFAULT;
ALTER TABLE ONLY treadle.records ATTACH PARTITION treadle.records_default DEFAULT;
ALTER TABLE ONLY treadle.agents
    ADD CONSTRAINT agents_pkey PRIMARY KEY (agent);
ALTER TABLE ONLY treadle.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY treadle.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);
ALTER TABLE ONLY treadle.callback_secrets
    ADD CONSTRAINT callback_secrets_pkey PRIMARY KEY (tenant);
ALTER TABLE ONLY treadle.counters
    ADD CONSTRAINT counters_pkey PRIMARY KEY (id);
ALTER TABLE ONLY treadle.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (message_id, seq);
ALTER TABLE ONLY treadle.events_default
    ADD CONSTRAINT events_default_pkey PRIMARY KEY (message_id, seq);
ALTER TABLE ONLY treadle.held_records
    ADD CONSTRAINT held_records_pkey PRIMARY KEY (subscription, topic, "offset");
ALTER TABLE ONLY treadle.idempotency
    ADD CONSTRAINT idempotency_pkey PRIMARY KEY (tenant, restriction, key);
ALTER TABLE ONLY treadle.instances
    ADD CONSTRAINT instances_pkey PRIMARY KEY (worker_id, thread, agent);
ALTER TABLE ONLY treadle.keys
    ADD CONSTRAINT keys_pkey PRIMARY KEY (key_id);
ALTER TABLE ONLY treadle.lane_shares
    ADD CONSTRAINT lane_shares_pkey PRIMARY KEY (id);
ALTER TABLE ONLY treadle.lane_surplus
    ADD CONSTRAINT lane_surplus_pkey PRIMARY KEY (queue, lane, tenant);
ALTER TABLE ONLY treadle.late_cancels
    ADD CONSTRAINT late_cancels_pkey PRIMARY KEY (xid, n);
ALTER TABLE ONLY treadle.late_charges
    ADD CONSTRAINT late_charges_pkey PRIMARY KEY (xid, n);
ALTER TABLE ONLY treadle.late_events
    ADD CONSTRAINT late_events_pkey PRIMARY KEY (xid, n);
ALTER TABLE ONLY treadle.leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (message_id);
ALTER TABLE ONLY treadle.low_water
    ADD CONSTRAINT low_water_pkey PRIMARY KEY (name, low);
ALTER TABLE ONLY treadle.messages
    ADD CONSTRAINT messages_pkey PRIMARY KEY (message_id);
ALTER TABLE ONLY treadle.meta
    ADD CONSTRAINT meta_pkey PRIMARY KEY (name);
ALTER TABLE ONLY treadle.mutexes
    ADD CONSTRAINT mutexes_pkey PRIMARY KEY (name);
ALTER TABLE ONLY treadle.not_completed
    ADD CONSTRAINT not_completed_pkey PRIMARY KEY (tenant, state, message_id);
ALTER TABLE ONLY treadle.parked
    ADD CONSTRAINT parked_pkey PRIMARY KEY (message_id);
ALTER TABLE ONLY treadle.push_configs
    ADD CONSTRAINT push_configs_pkey PRIMARY KEY (message_id, config_id);
ALTER TABLE ONLY treadle.queues
    ADD CONSTRAINT queues_pkey PRIMARY KEY (queue);
ALTER TABLE ONLY treadle.records
    ADD CONSTRAINT records_pkey PRIMARY KEY (record_id);
ALTER TABLE ONLY treadle.records_default
    ADD CONSTRAINT records_default_pkey PRIMARY KEY (record_id);
ALTER TABLE ONLY treadle.schema_ends
    ADD CONSTRAINT schema_ends_pkey PRIMARY KEY (tenant);
ALTER TABLE ONLY treadle.schema_rules
    ADD CONSTRAINT schema_rules_pkey PRIMARY KEY (tenant, subject, rule);
ALTER TABLE ONLY treadle.schema_versions
    ADD CONSTRAINT schema_versions_pkey PRIMARY KEY (tenant, subject, version);
ALTER TABLE ONLY treadle.schemas
    ADD CONSTRAINT schemas_digest UNIQUE (tenant, digest);
ALTER TABLE ONLY treadle.schemas
    ADD CONSTRAINT schemas_pkey PRIMARY KEY (tenant, schema_id);
ALTER TABLE ONLY treadle.secrets
    ADD CONSTRAINT secrets_pkey PRIMARY KEY (name);
ALTER TABLE ONLY treadle.sql_roles
    ADD CONSTRAINT sql_roles_pkey PRIMARY KEY (role);
ALTER TABLE ONLY treadle.stat_rows
    ADD CONSTRAINT stat_rows_pkey PRIMARY KEY (tenant, seconds, at, queue, agent);
ALTER TABLE ONLY treadle.store_items
    ADD CONSTRAINT store_items_pkey PRIMARY KEY (tenant, owner, namespace, key);
ALTER TABLE ONLY treadle.store_sizes
    ADD CONSTRAINT store_sizes_pkey PRIMARY KEY (tenant, owner, slot);
ALTER TABLE ONLY treadle.store_totals
    ADD CONSTRAINT store_totals_pkey PRIMARY KEY (tenant, slot);
ALTER TABLE ONLY treadle.subscription_counts
    ADD CONSTRAINT subscription_counts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY treadle.subscription_positions
    ADD CONSTRAINT subscription_positions_pkey PRIMARY KEY (subscription, topic, version);
ALTER TABLE ONLY treadle.subscription_topics
    ADD CONSTRAINT subscription_topics_pkey PRIMARY KEY (subscription, topic);
ALTER TABLE ONLY treadle.subscriptions
    ADD CONSTRAINT subscriptions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY treadle.subscriptions
    ADD CONSTRAINT subscriptions_tenant_subscription_key UNIQUE (tenant, subscription);
ALTER TABLE ONLY treadle.tenant_use
    ADD CONSTRAINT tenant_use_pkey PRIMARY KEY (tenant);
ALTER TABLE ONLY treadle.tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (tenant);
ALTER TABLE ONLY treadle.thread_log
    ADD CONSTRAINT thread_log_pkey PRIMARY KEY (thread, era);
ALTER TABLE ONLY treadle.thread_turns
    ADD CONSTRAINT thread_turns_pkey PRIMARY KEY (thread, version);
ALTER TABLE ONLY treadle.threads
    ADD CONSTRAINT threads_pkey PRIMARY KEY (id);
ALTER TABLE ONLY treadle.threads
    ADD CONSTRAINT threads_tenant_thread_id_key UNIQUE (tenant, thread_id);
ALTER TABLE ONLY treadle.topic_ends
    ADD CONSTRAINT topic_ends_pkey PRIMARY KEY (topic, next_offset);
ALTER TABLE ONLY treadle.topic_log
    ADD CONSTRAINT topic_log_pkey PRIMARY KEY (topic, "offset");
ALTER TABLE ONLY treadle.topics
    ADD CONSTRAINT topics_pkey PRIMARY KEY (id);
ALTER TABLE ONLY treadle.trash
    ADD CONSTRAINT trash_pkey PRIMARY KEY (message_id);
ALTER TABLE ONLY treadle.webhook_outcomes
    ADD CONSTRAINT webhook_outcomes_pkey PRIMARY KEY (webhook_id);
ALTER TABLE ONLY treadle.webhooks
    ADD CONSTRAINT webhooks_pkey PRIMARY KEY (webhook_id);
ALTER TABLE ONLY treadle.workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (worker_id);
CREATE UNIQUE INDEX agents_default ON treadle.agents USING btree (is_default) WHERE is_default;
CREATE INDEX audit_at ON treadle.audit USING btree (at);
CREATE INDEX audit_tenant ON treadle.audit USING btree (tenant, at);
CREATE INDEX events_thread ON ONLY treadle.events USING btree (thread, thread_pos) WHERE (thread IS NOT NULL);
CREATE INDEX events_default_thread_thread_pos_idx ON treadle.events_default USING btree (thread, thread_pos) WHERE (thread IS NOT NULL);
CREATE INDEX idempotency_age ON treadle.idempotency USING btree (created_at);
CREATE INDEX keys_created ON treadle.keys USING btree (created_at, key_id);
CREATE INDEX keys_tenant ON treadle.keys USING btree (tenant, created_at);
CREATE INDEX lane_shares_order ON treadle.lane_shares USING btree (tenant, queue, lane, id);
CREATE INDEX leases_of_thread ON treadle.leases USING btree (thread, id) WHERE (thread IS NOT NULL);
CREATE INDEX leases_order ON treadle.leases USING btree (id);
CREATE INDEX low_water_passed ON treadle.low_water USING btree (name) WHERE (passed <> '{}'::text[]);
CREATE INDEX messages_due ON treadle.messages USING btree (run_at) WHERE (hold = ANY (ARRAY['delay'::text, 'backoff'::text]));
CREATE UNIQUE INDEX messages_ord ON treadle.messages USING btree (thread, ord) WHERE (thread IS NOT NULL);
CREATE INDEX messages_parent ON treadle.messages USING btree (parent) WHERE (parent IS NOT NULL);
CREATE INDEX messages_parked ON treadle.messages USING btree (message_id) WHERE (hold = ANY (ARRAY['children'::text, 'input'::text]));
CREATE INDEX messages_records ON treadle.messages USING btree (subscription, record_topic, record_offset) WHERE (subscription IS NOT NULL);
CREATE INDEX messages_share ON treadle.messages USING btree (tenant, queue, priority, share_place) WHERE (hold = 'share'::text);
CREATE INDEX messages_steered ON treadle.messages USING btree (steered_into) WHERE (steered_into IS NOT NULL);
CREATE INDEX messages_tenant ON treadle.messages USING btree (tenant, message_id) WHERE (tenant <> 'default'::text);
CREATE INDEX messages_waiting ON treadle.messages USING btree (thread, rank, ord) WHERE (hold = 'thread'::text);
CREATE INDEX push_configs_tenant ON treadle.push_configs USING btree (tenant);
CREATE INDEX schema_versions_schema ON treadle.schema_versions USING btree (tenant, schema_id);
CREATE INDEX stat_rows_age ON treadle.stat_rows USING btree (seconds, at);
CREATE INDEX store_items_expires ON treadle.store_items USING btree (expires_at) WHERE (expires_at IS NOT NULL);
CREATE INDEX subscription_counts_subscription ON treadle.subscription_counts USING btree (subscription, id);
CREATE INDEX subscription_topics_topic ON treadle.subscription_topics USING btree (topic);
CREATE INDEX tenants_stopped ON treadle.tenants USING btree (tenant) WHERE ((suspended_at IS NOT NULL) OR (deleted_at IS NOT NULL));
CREATE INDEX thread_turns_recent ON treadle.thread_turns USING btree (tenant, last_activity DESC, thread DESC);
CREATE INDEX topics_deleted ON treadle.topics USING btree (id) WHERE (deleted_at IS NOT NULL);
CREATE UNIQUE INDEX topics_name ON treadle.topics USING btree (tenant, topic) WHERE (deleted_at IS NULL);
CREATE INDEX webhooks_enabled ON treadle.webhooks USING btree (tenant) WHERE enabled;
CREATE INDEX webhooks_tenant ON treadle.webhooks USING btree (tenant, created_at);
ALTER INDEX treadle.events_pkey ATTACH PARTITION treadle.events_default_pkey;
ALTER INDEX treadle.events_thread ATTACH PARTITION treadle.events_default_thread_thread_pos_idx;
ALTER INDEX treadle.records_pkey ATTACH PARTITION treadle.records_default_pkey;
CREATE CONSTRAINT TRIGGER late_cancels AFTER INSERT ON treadle.late_cancels DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION treadle._give_late_cancels();
CREATE CONSTRAINT TRIGGER late_charges AFTER INSERT ON treadle.late_charges DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION treadle._give_late_charges();
CREATE CONSTRAINT TRIGGER late_events AFTER INSERT ON treadle.late_events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION treadle._give_late_positions();
CREATE TRIGGER tenants_limits BEFORE INSERT OR UPDATE OF limits ON treadle.tenants FOR EACH ROW EXECUTE FUNCTION treadle._put_limits_in_force();
CREATE TRIGGER tenants_sharing AFTER INSERT OR DELETE OR UPDATE OF suspended_at, deleted_at, limits ON treadle.tenants FOR EACH STATEMENT EXECUTE FUNCTION treadle._follow_tenants();
ALTER TABLE ONLY treadle.agents
    ADD CONSTRAINT agents_queue_fkey FOREIGN KEY (queue) REFERENCES treadle.queues(queue);
ALTER TABLE ONLY treadle.instances
    ADD CONSTRAINT instances_worker_id_fkey FOREIGN KEY (worker_id) REFERENCES treadle.workers(worker_id) ON DELETE CASCADE;
ALTER TABLE ONLY treadle.schema_versions
    ADD CONSTRAINT schema_versions_tenant_schema_id_fkey FOREIGN KEY (tenant, schema_id) REFERENCES treadle.schemas(tenant, schema_id);
ALTER TABLE treadle.audit ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.callback_secrets ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.counters ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.events ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.held_records ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.idempotency ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.instances ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.lane_shares ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.lane_surplus ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.late_cancels ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.late_charges ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.late_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.leases ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.messages ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.not_completed ENABLE ROW LEVEL SECURITY;
CREATE POLICY own_tenant ON treadle.audit AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.callback_secrets AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.counters AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.events AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.held_records AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.idempotency AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.instances AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.keys AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.lane_shares AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.lane_surplus AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.late_cancels AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.late_charges AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.late_events AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.leases AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.messages AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.not_completed AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.parked AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.push_configs AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.records AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.schema_ends AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.schema_rules AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.schema_versions AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.schemas AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.sql_roles AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.stat_rows AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.store_items AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.store_sizes AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.store_totals AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.subscription_counts AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.subscription_positions AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.subscription_topics AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.subscriptions AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.tenant_use AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.tenants AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.thread_log AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.thread_turns AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.threads AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.topic_ends AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.topic_log AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.topics AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.trash AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.webhook_outcomes AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
CREATE POLICY own_tenant ON treadle.webhooks AS RESTRICTIVE FOR SELECT TO treadle_tenant USING ((tenant = ( SELECT treadle._session_tenant() AS _session_tenant)));
ALTER TABLE treadle.parked ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.push_configs ENABLE ROW LEVEL SECURITY;
CREATE POLICY readers ON treadle.audit FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.callback_secrets FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.counters FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.events FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.held_records FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.idempotency FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.instances FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.keys FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.lane_shares FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.lane_surplus FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.late_cancels FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.late_charges FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.late_events FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.leases FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.messages FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.not_completed FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.parked FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.push_configs FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.records FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.schema_ends FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.schema_rules FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.schema_versions FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.schemas FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.sql_roles FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.stat_rows FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.store_items FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.store_sizes FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.store_totals FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.subscription_counts FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.subscription_positions FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.subscription_topics FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.subscriptions FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.tenant_use FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.tenants FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.thread_log FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.thread_turns FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.threads FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.topic_ends FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.topic_log FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.topics FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.trash FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.webhook_outcomes FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
CREATE POLICY readers ON treadle.webhooks FOR SELECT TO treadle_app, treadle_worker, treadle_tenant USING (true);
ALTER TABLE treadle.records ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.schema_ends ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.schema_rules ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.schema_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.schemas ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.sql_roles ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.stat_rows ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.store_items ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.store_sizes ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.store_totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.subscription_counts ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.subscription_positions ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.subscription_topics ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.subscriptions ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.tenant_use ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.thread_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.thread_turns ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.threads ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.topic_ends ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.topic_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.topics ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.trash ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.webhook_outcomes ENABLE ROW LEVEL SECURITY;
ALTER TABLE treadle.webhooks ENABLE ROW LEVEL SECURITY;
