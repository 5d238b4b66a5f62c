// Drives a mailbox with imapflow. Arguments: port, CA file, user, password, and for
// a later run the UIDVALIDITY and mod-sequence of INBOX that the first one knew. It
// writes one JSON object to a line; the caller judges them.
import { readFileSync } from 'node:fs';
import { ImapFlow } from 'imapflow';

const [port, ca, user, pass, uidValidity, modSeq] = process.argv.slice(2);
const folder = 'Flow/Grüße & Søren';
const tell = (step, more) =>
    console.log(JSON.stringify({ step, ...more }, (_, v) => (typeof v === 'bigint' ? v.toString() : v)));

const client = new ImapFlow({
    host: 'localhost', port: Number(port), secure: true, auth: { user, pass },
    tls: { ca: readFileSync(ca) }, qresync: true, logger: false
});
client.on('error', err => { tell('error', { text: String(err) }); process.exitCode = 1; });

// What the server tells of INBOX on its own.
let gone = [];
let flagged = [];
client.on('expunge', e => gone.push({ uid: e.uid, vanished: e.vanished, earlier: e.earlier }));
client.on('flags', e => flagged.push({ uid: e.uid, flags: [...e.flags].sort() }));

const open = async since => {
    await client.mailboxOpen('Flow/Empty'); // so that INBOX is opened anew
    gone = [];
    flagged = [];
    const box = await client.mailboxOpen('INBOX', since);
    return { exists: box.exists, qresync: box.qresync, uidValidity: box.uidValidity, modSeq: box.highestModseq, gone, flagged };
};
const all = async (range, what, options) => {
    const list = [];
    for await (const m of client.fetch(range, what, options)) {
        list.push({ uid: m.uid, flags: [...m.flags].sort(), subject: m.envelope?.subject });
    }
    return list;
};
const mail = n => `From: sender@example.org\r\nTo: ${user}\r\nSubject: flow ${n} Grüße\r\nMessage-ID: <flow${n}@example.org>\r\n\r\nThe text of ${n}.\r\n`;

await client.connect();
tell('connected', { enabled: [...client.enabled].sort(), compressed: client.stats() && Boolean(client._deflate) });

if (uidValidity) {
    tell('again', await open({ uidValidity: BigInt(uidValidity), changedSince: BigInt(modSeq) }));
} else {
    for (const path of [folder, 'Flow/Empty']) {
        await client.mailboxCreate(path);
    }
    const uids = [];
    for (const n of [1, 2, 3, 4]) {
        uids.push((await client.append('INBOX', mail(n), n === 1 ? ['\\Seen', '$flow'] : [])).uid);
    }
    const first = await open();
    tell('appended', { uids, list: (await client.list()).map(f => f.path).sort() });

    await client.messageFlagsAdd(uids[1], ['\\Flagged', '$flow'], { uid: true });
    const query = { uid: true, flags: true, envelope: true };
    tell('changed', { list: await all('1:*', query, { changedSince: first.modSeq }) });
    tell('search', {
        keyword: await client.search({ keyword: '$flow' }, { uid: true }),
        subject: await client.search({ subject: 'GRÜSSE' }, { uid: true }),
        textUIDs: await client.search({ or: [{ subject: 'flow 3 grüße' }, { body: 'text of 4' }] }, { uid: true })
    });
    const moved = await client.messageMove(uids[2], folder, { uid: true });
    tell('moved', { from: [...moved.uidMap.keys()], to: moved.destination });
    await client.messageDelete(uids[3], { uid: true });
    const { content } = await client.download(String(uids[0]), undefined, { uid: true });
    let text = '';
    for await (const part of content) {
        text += part;
    }
    tell('read', { same: text === mail(1) });

    const now = await open({ uidValidity: first.uidValidity, changedSince: first.modSeq });
    tell('resync', now);
    await client.mailboxRename(folder, folder + ' 2');

    // A delivery while idling.
    const came = new Promise(resolve => client.once('exists', resolve));
    const over = client.idle();
    tell('idle');
    const { count, prevCount } = await came;
    tell('came', { count, prevCount });
    await client.noop();
    await over;
    tell('end', await open());
}
await client.logout();
