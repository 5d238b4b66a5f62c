package maildir

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"waypost/backend/mailbox"
	"waypost/backend/maildir/name"
	"waypost/backend/maildir/state"
	"waypost/backend/maildir/uidlist"
)

// guidAttribute is the id of a folder whose uidlist, made by others, has none.
const guidAttribute = "guid"

// ensureID gives such a folder an id, durably.
func (f *folder) ensureID() error {
	if _, is := f.state.Attribute(guidAttribute); is || f.list.Header().GUID != "" {
		return nil
	}
	modseq, err := f.state.NextModSeq()
	if err == nil {
		err = f.state.Ensure(state.SetAttribute(modseq, guidAttribute, newGUID()))
	}
	return err
}

// id is the folder's MAILBOXID.
func (f *folder) id() string {
	guid := f.list.Header().GUID
	if guid == "" {
		guid, _ = f.state.Attribute(guidAttribute)
	}
	return objectID(guid)
}

// objectID makes an id of RFC 8474, Section 7, of a name: the name itself if it can
// be one.
func objectID(text string) string {
	legal := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
	}
	if text != "" && len(text) <= 255 && strings.IndexFunc(text, func(c rune) bool { return !legal(c) }) < 0 {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// emailID names a message's content.
func (f *folder) emailID(uid mailbox.UID, base string) string {
	if id := f.marks[uid].email; id != "" {
		return id
	}
	return emailIDOf(base, f.fields[uid])
}

// emailIDOf is what a message's own GUID gives: that of the uidlist, if there is
// one, else the unique part of the name. A POP3 UIDL that was kept is not used:
// it need be unique in its own folder only.
func emailIDOf(base, fields string) string {
	e := uidlist.Entry{Fields: fields}
	if guid, ok := e.Field('G'); ok && guid != "" {
		return objectID(guid)
	}
	return objectID(name.Unique(base))
}

// known runs do on a message, whose file it does not look at.
func (h *handle) known(what string, uid mailbox.UID, do func(m *mailbox.Message)) error {
	return h.b.do(what, func() error {
		if !h.f.loaded || h.f.msgs.Get(uid) == nil {
			if err := h.f.sync(); err != nil {
				return err
			}
		}
		if err := h.current(); err != nil {
			return err
		}
		m := h.f.msgs.Get(uid)
		if m == nil {
			return fmt.Errorf("UID %d: %w", uid, mailbox.ErrNoMessage)
		}
		do(m)
		return h.f.durable()
	})
}

// SaveDate is mailbox.Folder's.
func (h *handle) SaveDate(uid mailbox.UID) (date time.Time, err error) {
	err = h.known("save date", uid, func(*mailbox.Message) {
		if at, is := h.f.state.SaveDate(uint32(uid)); is {
			date = at
		}
	})
	return date, err
}

// EmailID is mailbox.Folder's.
func (h *handle) EmailID(uid mailbox.UID) (id string, err error) {
	err = h.known("email id", uid, func(m *mailbox.Message) { id = h.f.emailID(uid, refBase(m.Ref)) })
	return id, err
}

// ExpungedSince is mailbox.Folder's.
func (h *handle) ExpungedSince(modSeq uint64) (uids []mailbox.UIDRange, complete bool, err error) {
	err = h.b.do("expunges", func() error {
		if err := h.sync(); err != nil {
			return err
		}
		if err := h.f.durable(); err != nil {
			return err
		}
		var gone []state.Range
		gone, complete = h.f.state.ExpungedSince(modSeq)
		for _, r := range gone {
			uids = append(uids, mailbox.UIDRange{First: mailbox.UID(r.First), Last: mailbox.UID(r.Last)})
		}
		return nil
	})
	return uids, complete, err
}

// saveOps say when messages with consecutive UIDs were saved, in unix seconds.
func (f *folder) saveOps(first mailbox.UID, dates []int64) (ops []op) {
	for i, at := range dates {
		if n := len(ops); n > 0 && ops[n-1].at.Unix() == at {
			ops[n-1].count++
			continue
		}
		ops = append(ops, op{kind: opSaved, dir: f.rel, uid: uint32(first) + uint32(i), count: 1, at: time.Unix(at, 0)})
	}
	return ops
}

// saveOp is saveOps for messages that were all saved now.
func (f *folder) saveOp(first mailbox.UID, n int) op {
	return op{kind: opSaved, dir: f.rel, uid: uint32(first), count: uint32(n), at: time.Unix(f.a.o.Now().Unix(), 0)}
}

// saveRecord is what the state is to have of an opSaved.
func saveRecord(o op) state.Record {
	uids := make([]uint32, o.count)
	for i := range uids {
		uids[i] = o.uid + uint32(i)
	}
	return state.Save(o.at, uids...)
}

// saved is when a new message came into the folder: one that was delivered here
// says so by its name. Others are seen here for the first time.
func (f *folder) saved(m *unnumbered) int64 {
	now := f.a.o.Now()
	if at, ours := name.Made(refBase(m.ref)); ours && (m.delivered || refIsNew(m.ref)) && !at.After(now) {
		return at.Unix()
	}
	return now.Unix()
}

// annotations are what records have said that is neither in file names nor in the
// uidlist, as records of the state; last has the UIDs by base.
func (d *dirFold) annotations(s *state.State, modseq uint64, last map[string]uint32) (records []state.Record) {
	for _, o := range d.saves {
		records = append(records, saveRecord(o))
	}
	for key, o := range d.attributes {
		records = append(records, attributeRecord(modseq, key, o))
	}
	for base, m := range d.msgs {
		uid := last[base]
		if uid == 0 || !m.present || m.marks == nil {
			continue
		}
		for _, key := range s.Marks(uid) {
			if word, is := strings.CutPrefix(key, wordMark); is && !containsWord(m.marks.words, word) {
				records = append(records, state.RemoveMark(modseq, key, uid))
			}
		}
		for _, word := range m.marks.words {
			records = append(records, state.SetMark(modseq, wordMark+word, "", uid))
		}
		records = append(records, emailRecord(modseq, m.marks.email, uid))
	}
	return records
}
