// Package index keeps what lists and searches ask of a folder's messages, so that
// nobody opens the messages for it: structure, envelope, the header fields below,
// a preview and an attachment mark (mailbox.Meta). One file, waypost-index, in the
// folder's directory.
//
// # What it promises
//
// The index is derived, and never authoritative. What Get gives was read from
// that very message; what is missing, cut off, damaged, of another version or for
// another folder is a miss, and whoever reads the message then puts it in again.
// Records are found by the base name of the message's file (what is before ":2,"),
// which never changes its contents, so UIDs, flags and renumbering do not matter.
//
// Nothing is ever synced. A crash may lose the end of the file, or leave zeros or
// old blocks in it: every record has its own checksum, over its key too, and
// seeded with the folder's id and with a number that each new file draws anew.
//
// An Index is for the one process that has the folder open, and safe for
// concurrent use in it. In memory it holds 8 bytes a message in a table that is
// at most seven eighths and at least, when it has just grown, some 44 hundredths
// full: 9 to 18 bytes a message; and, until Rest, a window of 16 KiB, of 64 where a whole
// folder is read, and 16 KiB of texts.
//
// # The ready-made texts
//
// A record begins with ENVELOPE and BODYSTRUCTURE as IMAP sends them (mime.Wire, which is
// Meta.Root.Wire), then has the header fields below: Wire and HeaderFields read no more of it
// than that, and cost a third of Get.
//
// # The header fields kept
//
// Those of the message's own header, byte for byte (Field.Raw), from which BODY
// [HEADER.FIELDS (...)] is answered exactly (HeaderFields). They are what ENVELOPE
// needs (date, subject, from, sender, reply-to, to, cc, bcc, in-reply-to,
// message-id), what clients ask for in their listings beyond it (Thunderbird,
// Apple Mail, Outlook, Roundcube, K-9, mutt, Evolution, Delta Chat), and what
// filters and searches look at most:
//
//	references, thread-topic, thread-index, content-type, mime-version,
//	content-description, content-class, content-language,
//	content-transfer-encoding, content-disposition, list-id, list-post,
//	list-unsubscribe, list-unsubscribe-post, x-mailing-list,
//	priority, x-priority, x-msmail-priority, importance, sensitivity,
//	x-message-flag, delivered-to, return-path, x-original-to, newsgroups,
//	followup-to, mail-followup-to, mail-reply-to, disposition-notification-to,
//	auto-submitted, lines, keywords, x-keywords, x-label,
//	x-draft-info, x-identity-key, x-k9mail-identity,
//	x-uniform-type-identifier, x-universally-unique-identifier,
//	x-mozilla-draft-info, x-spam-flag, x-spam-status, x-spam-score,
//	x-tuid, chat-version, x-microsoft-original-message-id
//
// Of any other field the index knows nothing (Kept), not even that it is absent;
// Received, DKIM-Signature, Authentication-Results, List-Subscribe and their like
// are left out for their size. A kept field that a message lacks is known to be absent. A field
// over 8 KiB, and what comes when 32 KiB or 256 fields are kept already, is marked
// (Field.Cut), and then that name is not known of this message.
//
// # The preview
//
// RFC 8970: the beginning of the first text/plain part, else of the first
// text/html one, that is neither an attachment nor in an enclosed message. Lines
// quoted with '>' and the line that announces them are left out, as is all from
// the signature ("-- ") on; of HTML so are tags, style, script, title and
// blockquote. If nothing remains, the quotes are taken after all. White space and
// characters without width are collapsed; 200 characters are kept. Only the first
// 64 KiB of a plain part, 256 KiB of an HTML one, are looked at.
//
// # The attachment mark
//
// A message has an attachment if one of its leaf parts has disposition attachment,
// or has a file name and is not a text to be shown inline, or is an enclosed
// message. No attachments are: signatures and keys of S/MIME and OpenPGP, the parts of
// multipart/encrypted and multipart/report, the messages of a digest, and, unless
// their disposition is attachment, parts with a Content-ID in multipart/related
// (pictures of the HTML). Parts of enclosed messages are not looked at.
package index
