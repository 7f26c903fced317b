import json, httpx, asyncio
from conftest import Client

async def test_probe(api: Client) -> None:
    async def show(name, method, path, **kw):
        r = await api.request(method, path, **kw)
        print(f"{name:28} {r.status_code} {r.headers.get('content-type')} {r.text[:300]} {dict((k,v) for k,v in r.headers.items() if k in ('retry-after','allow','location','link'))}")
    def raw(name, body, path="/messages", ct="application/json", **h):
        return show(name, "POST", path, content=body, headers={"content-type": ct, **h})
    print()
    for name, body in {
        "ok": '{"message":"x"}',
        "empty text": '{"message":""}', "number": '{"message":1}', "null": '{"message":null}', "list":'{"message":[]}', "bool":'{"message":true}', "missing": '{}',
        "array body": '[]', "string body":'"x"', "null body":'null', "number body":"1",
        "nul": '{"message":"a\\u0000b"}', "raw nul": '{"message":"a\x00b"}', "nul meta": '{"message":"a","metadata":{"a":["\\u0000"]}}', "nul metakey": '{"message":"a","metadata":{"\\u0000":1}}', "nul thread": '{"message":"a","thread_id":"a\\u0000"}', "nul agent": '{"message":"a","agent":"a\\u0000"}',
        "surr": '{"message":"a\\ud800b"}', "surr meta": '{"message":"a","metadata":{"x":"\\udc00"}}', "badutf8": b'{"message":"\xff"}', "cesu": b'{"message":"\xed\xa0\x80"}',
        "prio": '{"message":"a","priority":"urgent"}', "prio null": '{"message":"a","priority":null}', "prio int": '{"message":"a","priority":1}',
        "agent": '{"message":"a","agent":"nobody"}', "agent empty": '{"message":"a","agent":""}', "agent int": '{"message":"a","agent":3}',
        "unknown": '{"message":"a","nonsense":1}',
        "meta list": '{"message":"a","metadata":[]}', "meta str": '{"message":"a","metadata":"x"}',
        "delay str": '{"message":"a","delay_seconds":"1"}', "delay bool": '{"message":"a","delay_seconds":true}', "delay nan": '{"message":"a","delay_seconds":NaN}', "delay inf": '{"message":"a","delay_seconds":Infinity}', "delay 1e400":'{"message":"a","delay_seconds":1e400}', "delay neg": '{"message":"a","delay_seconds":-1}', "delay big":'{"message":"a","delay_seconds":1e300}', "delay tiny":'{"message":"a","delay_seconds":1e-400}', "delay -0":'{"message":"a","delay_seconds":-0.0}', "delay 1e-320":'{"message":"a","delay_seconds":1e-320}',
        "max 0": '{"message":"a","max_attempts":0}', "max 1.5": '{"message":"a","max_attempts":1.5}', "max 1.0": '{"message":"a","max_attempts":1.0}', "max huge": '{"message":"a","max_attempts":%s}' % ("9"*50), "max 2**64": '{"message":"a","max_attempts":18446744073709551616}',"max bool": '{"message":"a","max_attempts":true}',
        "timeout 0": '{"message":"a","timeout_seconds":0}', "timeout tiny": '{"message":"a","timeout_seconds":1e-320}',
        "meta 1e400": '{"message":"a","metadata":{"x":1e400}}', "meta huge int":'{"message":"a","metadata":{"x":%s}}'%("9"*400), "meta very huge int":'{"message":"a","metadata":{"x":%s}}'%("9"*5000), "meta huge float": '{"message":"a","metadata":{"x":1e308}}', "meta 20digit": '{"message":"a","metadata":{"x":123456789012345678901234567890}}', "meta 1e-400":'{"message":"a","metadata":{"x":1e-400}}',
        "thread 256": '{"message":"a","thread_id":"%s"}'%("x"*256), "thread 255": '{"message":"a","thread_id":"%s"}'%("x"*255), "thread 255mb": '{"message":"a","thread_id":"%s"}'%("é"*255), "thread 255 astral": '{"message":"a","thread_id":"%s"}'%("😀"*255), "thread empty": '{"message":"a","thread_id":""}', "thread slash": '{"message":"a","thread_id":"a/b"}', "thread nl": '{"message":"a","thread_id":"a\\n"}', "thread ctl":'{"message":"a","thread_id":"a\\u0001b"}', "thread del":'{"message":"a","thread_id":"a\\u007f"}', "thread c1":'{"message":"a","thread_id":"a\\u0085"}', "thread int":'{"message":"a","thread_id":5}', "thread 2028":'{"message":"a","thread_id":"a\\u2028"}', "thread zwsp":'{"message":"a","thread_id":"a\\u200b"}', "thread fffe":'{"message":"a","thread_id":"a\\ufffe"}',
        "obj": '{"message":{"a":1}}', "obj empty": '{"message":{}}',
        "malformed": '{"message":', "trailing": '{"message":"a"} x', "empty": '', "ws": '  ', "dup": '{"message":"a","message":"b"}', "single": "{'message':'a'}", "bom": '\ufeff{"message":"a"}'.encode(),
        "deep": '{"message":"a","metadata":' + '{"a":'*100000 + '1' + '}'*100001, "deep arr": '['*100000, "deep2": '{"message":"a","metadata":{"a":' + '['*100000 + ']'*100000 + '}}', "deep 900": '{"message":"a","metadata":{"a":' + '['*900 + ']'*900 + '}}', "deep 5000": '{"message":"a","metadata":{"a":' + '['*5000 + ']'*5000 + '}}',
    }.items():
        await raw(name, body)
    await raw("ct text", '{"message":"a"}', ct="text/plain")
    await raw("ct form", 'message=a', ct="application/x-www-form-urlencoded")
    await raw("ct multi", '--x\r\n\r\n--x--', ct="multipart/form-data; boundary=x")
    await raw("ct multi nob", '--x\r\n\r\n--x--', ct="multipart/form-data")
    await raw("ct xml", '<a/>', ct="application/xml")
    await raw("ct msgpack", b'\x81\xa7message\xa1a', ct="application/x-msgpack")
    await raw("ct problem+json", '{"message":"a"}', ct="application/problem+json")
    await raw("ct charset", '{"message":"a"}', ct="application/json; charset=utf-8")
    await raw("ct latin1", '{"message":"\xe9"}'.encode("latin1"), ct="application/json; charset=latin-1")
    await show("no ct", "POST", "/messages", content='{"message":"a"}')
    await raw("ct garbage", '{"message":"a"}', ct="garbage")
    await raw("ct empty", '{"message":"a"}', ct="")
    await raw("cl", '{"message":"a"}', **{"content-length":"abc"}) if False else None
    await raw("over chars", json.dumps({"message":"x"*100001}))
    await raw("chars", json.dumps({"message":"x"*100000}))
    await raw("obj over", json.dumps({"message":{"x":"x"*100000}}))
    await raw("body", b'{"message":"' + b"x"*10_000_001 + b'"}')
    async def chunks():
        for _ in range(12): yield b"x"*1_000_000
    try:
        await raw("body chunked", chunks())
    except Exception as e: print("chunked", repr(e))
    await raw("batch empty", '{"messages":[]}', "/messages/batch")
    await raw("batch none", '{}', "/messages/batch")
    await raw("batch list", '[]', "/messages/batch")
    await raw("batch 1001", json.dumps({"messages":[{"message":"a"}]*1001}), "/messages/batch")
    await raw("batch bad", json.dumps({"messages":[{"message":"a"},{"message":""}]}), "/messages/batch")
    await raw("batch bad prio", json.dumps({"messages":[{"message":"a"},{"message":"a","priority":"x"}]}), "/messages/batch")
    await raw("batch bad agent", json.dumps({"messages":[{"message":"a"},{"message":"a","agent":"x"}]}), "/messages/batch")
    await raw("key empty", '{"message":"a"}', **{"Idempotency-Key":""})
    await raw("key long", '{"message":"a"}', **{"Idempotency-Key":"k"*256})
    await raw("key latin", '{"message":"a"}', **{"Idempotency-Key":b"\xff\xfe"})
    await raw("key utf8", '{"message":"a"}', **{"Idempotency-Key":"é".encode()})
    for p in ["/messages/x/status","/messages/123/events","/messages/x/stream","/messages/x", "/messages/00000000-0000-0000-0000-000000000000/status","/messages/{00000000-0000-0000-0000-000000000000}/status","/messages/urn:uuid:00000000-0000-0000-0000-000000000000/status", "/messages/%00/status","/messages/%ff/status","/nope","/","/messages/","/messages", "/threads/%00","/threads/%ff","/threads/a%2Fb","/threads/nope","/threads/nope/messages","/threads/nope/stream","/threads/x%0A","/queues/nope","/queues/nope/dead-letters","/queues/%00","/threads?limit=0","/threads?limit=abc","/threads?limit=1001","/threads?limit=1e400","/threads?limit=99999999999999999999","/threads?limit=","/threads?cursor=abc","/threads?cursor=","/threads?cursor=%00","/threads?cursor=%ff","/threads?cursor=é", "/queues/default/dead-letters?limit=0","/docs","/redoc","/openapi.json","/openapi.yaml","/health","/health/live","/health/ready", "/messages/00000000-0000-0000-0000-000000000000/events?after=-1","/messages/00000000-0000-0000-0000-000000000000/events?after=x","/messages/00000000-0000-0000-0000-000000000000/events?after=99999999999999","/messages/00000000-0000-0000-0000-000000000000/events?limit=0", "/threads?limit=1&limit=2", "/threads?nonsense=1", "/threads?limit=1.0","/threads?limit=%2B5","/threads?limit=true","/threads?limit=%D9%A3", "/threads?limit=1_0"]:
        try: await show(p, "GET", p)
        except Exception as e: print(p, repr(e))
    await show("put", "PUT", "/messages", json={})
    await show("delete", "DELETE", "/queue")
    await show("patch", "PATCH", "/messages/x")
    await show("get", "GET", "/queues/default/pause")
    await show("options", "OPTIONS", "/messages")
    await show("head", "HEAD", "/queue")
    await show("del bad", "DELETE", "/messages/x")
    await show("redrive bad", "POST", "/messages/x/redrive")
    await show("pause nope", "POST", "/queues/nope/pause")
    await show("del thread nope", "DELETE", "/threads/nope")
    await show("del thread nul", "DELETE", "/threads/%00")
