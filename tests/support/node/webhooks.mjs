// Verifies what a receiver got with the unmodified package standardwebhooks.
import { Webhook } from "standardwebhooks";

const { secret, posts } = JSON.parse(process.env.TREADLE_SCENES);
const told = posts.map(({ body, headers }) => new Webhook(secret).verify(body, headers).type);
let refused = false;
try {
  new Webhook(secret).verify(`${posts[0].body} `, posts[0].headers);
} catch {
  refused = true;
}
console.log(JSON.stringify({ told, refused }));
