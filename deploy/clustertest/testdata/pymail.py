"""Drives a mailbox with Python's imaplib: the calls that scripts use.

Arguments: host, port, CA file, user, password.
An AssertionError is a failed test; what it leaves in the mailbox the caller checks.
"""
import email
import imaplib
import re
import ssl
import sys
import time

host, port, ca, user, password = sys.argv[1:]


def ok(answer):
    kind, data = answer
    assert kind == "OK", answer
    return data


def text(data):
    return b" ".join(d if isinstance(d, bytes) else b" ".join(d) for d in data if d).decode()


def refused(call, *args):
    try:
        kind, data = call(*args)
    except imaplib.IMAP4.error:
        return
    assert kind == "NO", (kind, data)


def message(n, subject, refs=""):
    lines = [f"From: sender{n}@example.org", "To: reader@example.test", f"Subject: {subject}",
             f"Date: Mon, 0{n} Jun 2025 10:00:00 +0000", f"Message-ID: <py{n}@example.org>"]
    if refs:
        lines += [f"In-Reply-To: <{refs}>", f"References: <{refs}>"]
    return ("\r\n".join(lines) + f"\r\n\r\nThe body of {n}.\r\n").encode()


m = imaplib.IMAP4_SSL(host, int(port), ssl_context=ssl.create_default_context(cafile=ca))
refused(m.login, user, "wrong")
ok(m.login(user, password))
capabilities = text(ok(m.capability())).split()
# It goes by what it was told before the login.
m.capabilities = tuple(capabilities)
for c in ("IMAP4rev1", "SORT", "THREAD=REFERENCES", "QUOTA", "ACL", "SPECIAL-USE", "MOVE", "UIDPLUS", "NAMESPACE"):
    assert c in capabilities, c
assert '"/"' in text(ok(m.namespace()))

# Folders.
ok(m.create('"Py box"'))
ok(m.create("Py-Archive (USE (\\Archive))"))
ok(m.create("Deep/Er"))
ok(m.create("Deep/Er/Est"))
refused(m.create, '"Py box"')
uses = text(ok(m.list('""', '"*" RETURN (SPECIAL-USE)')))
assert re.search(r'\\Archive\b[^)]*\) "/" "?Py-Archive', uses), uses
ok(m.rename("Deep/Er", '"Deep/H&APY-her"'))
ok(m.subscribe('"Py box"'))
assert "Py box" in text(ok(m.lsub()))
ok(m.unsubscribe('"Py box"'))
assert "Py box" not in text(ok(m.lsub()) or [])

# Messages: two threads, of which one has two messages.
when = imaplib.Time2Internaldate(time.mktime((2025, 6, 1, 12, 0, 0, 0, 0, -1)))
first = ok(m.append('"Py box"', "(\\Seen $py)", when, message(1, "b root")))
assert b"APPENDUID" in first[0], first
ok(m.append('"Py box"', None, None, message(2, "Re: b root", "py1@example.org")))
ok(m.append('"Py box"', "\\Flagged", when, message(3, "a other")))
ok(m.append('"Py box"', None, when, message(4, "=?utf-8?q?Gr=C3=BC=C3=9Fe?=")))
assert ok(m.select('"Py box"')) == [b"4"]
assert m.response("UIDVALIDITY")[1][0].isdigit()
assert ok(m.search(None, "SUBJECT", '"b root"')) == [b"1 2"]
assert ok(m.search(None, "KEYWORD", "$py")) == [b"1"]
m.literal = "GRÜSSE".encode()
assert ok(m.search("UTF-8", "SUBJECT")) == [b""]
m.literal = "grüße".encode()
assert ok(m.search("UTF-8", "SUBJECT")) == [b"4"]
assert ok(m.sort("(SUBJECT DATE)", "UTF-8", "ALL")) == [b"3 1 2 4"]
assert ok(m.sort("(REVERSE DATE)", "UTF-8", "ALL")) == [b"4 3 2 1"]
assert ok(m.thread("REFERENCES", "UTF-8", "ALL")) == [b"(1 2)(3)(4)"]
assert ok(m.thread("ORDEREDSUBJECT", "UTF-8", "ALL")) == [b"(1 2)(3)(4)"]
uids = ok(m.uid("SEARCH", "ALL"))[0].split()
assert ok(m.uid("SORT", "(SUBJECT DATE)", "UTF-8", "ALL")) == [b" ".join(uids[i] for i in (2, 0, 1, 3))]
assert ok(m.uid("THREAD", "REFERENCES", "UTF-8", "ALL")) == [b"(%s %s)(%s)(%s)" % tuple(uids)]

# FETCH.
got = text(ok(m.fetch("1", "(UID FLAGS INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE)")))
assert "$py" in got and '"b root"' in got and f"RFC822.SIZE {len(message(1, 'b root'))}" in got, got
assert imaplib.Internaldate2tuple(got.encode()) is not None
data = ok(m.fetch("2", "(BODY.PEEK[])"))
assert data[0][1] == message(2, "Re: b root", "py1@example.org"), data
assert email.message_from_bytes(data[0][1])["Subject"] == "Re: b root"
assert ok(m.fetch("2", "(BODY.PEEK[TEXT]<4.4>)"))[0][1] == b"body"
assert b"\\Seen" not in ok(m.fetch("2", "(FLAGS)"))[0]
assert ok(m.fetch("2", "(RFC822)"))[0][1] == data[0][1]
assert b"\\Seen" in ok(m.fetch("2", "(FLAGS)"))[0]

# Changes.
ok(m.store("3", "+FLAGS", "(\\Answered)"))
ok(m.store("2", "-FLAGS.SILENT", "\\Seen"))
ok(m.uid("STORE", uids[3], "FLAGS", "(\\Draft)"))
ok(m.copy("1", "Py-Archive"))
ok(m.uid("MOVE", uids[2], "Py-Archive"))
assert m.response("EXPUNGE") == ("EXPUNGE", [b"3"])
ok(m.store("2", "+FLAGS", "\\Deleted"))
assert ok(m.expunge()) == [b"2"]
ok(m.check())
ok(m.noop())
status = text(ok(m.status('"Py-Archive"', "(MESSAGES UNSEEN UIDNEXT UIDVALIDITY RECENT)")))
assert "MESSAGES 2" in status, status
ok(m.close())

# Quota, rights.
roots, quota = ok(m.getquotaroot("INBOX"))
assert roots and roots[0], roots
ok(m.getquota('""')) if b'""' in roots[0] else None
assert "lrswi" in text(ok(m.myrights('"Py box"')))
assert user in text(ok(m.getacl('"Py box"')))

# Names in UTF-8.
ok(m.enable("UTF8=ACCEPT"))
ok(m.create('"Пётр &- Co"'))
assert ok(m.select('"Пётр &- Co"')) == [b"0"]
assert "Пётр &- Co" in text(ok(m.list()))
ok(m.unselect())
ok(m.delete('"Deep/Höher/Est"'))
assert m.logout()[0] == "BYE"
