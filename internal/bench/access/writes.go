package access

import (
	"context"
	"fmt"
)

const inbox = "INBOX"

// write changes the mailbox, in one session that has it selected.
func (v *visit) write(ctx context.Context) error {
	if err := v.prepare(); err != nil {
		return err
	}
	batch := v.suite.Batch
	all := fmt.Sprintf("1:%d", batch)
	for _, t := range []struct {
		task
		each int
	}{
		{task{key: keyStore, name: fmt.Sprintf("STORE of %d", batch), do: v.storeBatch}, 1},
		{task{key: keyStoreOne, name: "STORE, single", do: v.storeSingles}, v.suite.Singles},
		{task{key: keyAppendOne, name: "APPEND, single", do: v.appendSingles}, v.suite.Singles},
		{task{key: keyAppend, name: fmt.Sprintf("APPEND of %d", batch), do: v.appendBatch, before: func() error { return v.command("UNSELECT") }}, 1},
		{task{key: keyMultiple, name: fmt.Sprintf("MULTIAPPEND of %d", batch), do: v.multiappend}, 1},
		{task{key: keyCopy, name: fmt.Sprintf("COPY of %d", batch), do: func() error { return v.command("COPY " + all + " Copies") }}, 1},
		{task{key: keyMove, name: fmt.Sprintf("MOVE of %d", batch), do: func() error { return v.removing("MOVE " + all + " Moved") }}, 1},
		{task{key: keyExpunge, name: fmt.Sprintf("EXPUNGE of %d", batch), do: func() error { return v.removing("EXPUNGE") }, before: func() error {
			return v.command("STORE " + all + ` +FLAGS.SILENT (\Deleted)`)
		}}, 1},
	} {
		if !v.wants(Warm, t.key) {
			continue
		}
		t.times, t.writes = 1, true
		if err := v.measure(ctx, Warm, t.task, t.each); err != nil {
			return err
		}
		if t.key == keyAppend { // which had none selected
			if err := v.selected(); err != nil {
				return err
			}
		}
	}
	return v.checkFolders()
}

// prepare makes the folders for COPY and MOVE.
func (v *visit) prepare() error {
	for _, command := range []string{"CREATE Copies", "CREATE Moved"} {
		if err := v.command(command); err != nil {
			return err
		}
	}
	return v.selected()
}

func (v *visit) command(command string) error {
	_, err := v.imap.do(command)
	return err
}

// storeBatch sets a flag that no message has.
func (v *visit) storeBatch() error {
	a, err := v.imap.do(fmt.Sprintf(`STORE 1:%d +FLAGS (\Draft)`, v.suite.Batch))
	if err != nil {
		return err
	}
	return want("messages of STORE", a.fetched, v.suite.Batch)
}

// storeSingles does the same to single messages, spread over the rest of the mailbox.
func (v *visit) storeSingles() error {
	rest := v.size - v.suite.Batch
	for i := range v.suite.Singles {
		// 7919 is prime to all sizes in use.
		a, err := v.imap.do(fmt.Sprintf(`STORE %d +FLAGS (\Draft)`, v.suite.Batch+1+i*7919%rest))
		if err != nil {
			return err
		}
		if err := want("messages of STORE", a.fetched, 1); err != nil {
			return err
		}
	}
	return nil
}

// appendSingles appends to the mailbox that is selected, and sees each message come.
func (v *visit) appendSingles() error {
	for range v.suite.Singles {
		a, err := v.imap.append(inbox, appended(v.count))
		if err != nil {
			return err
		}
		v.count++
		if err := want("messages after APPEND", a.exists, v.count); err != nil {
			return err
		}
	}
	return nil
}

// appendBatch does the same with no mailbox selected, as clients that upload do.
func (v *visit) appendBatch() error {
	for range v.suite.Batch {
		if _, err := v.imap.append(inbox, appended(v.count)); err != nil {
			return err
		}
		v.count++
	}
	return nil
}

func (v *visit) multiappend() error {
	messages := make([][]byte, v.suite.Batch)
	for i := range messages {
		messages[i] = appended(v.count + i)
	}
	a, err := v.imap.append(inbox, messages...)
	if err != nil {
		return err
	}
	v.count += len(messages)
	return want("messages after MULTIAPPEND", a.exists, v.count)
}

// removing is a command that takes a batch away from the mailbox.
func (v *visit) removing(command string) error {
	a, err := v.imap.do(command)
	if err != nil {
		return err
	}
	v.count -= v.suite.Batch
	return want("messages that "+command+" removed", a.expunged, v.suite.Batch)
}

// checkFolders looks for what COPY and MOVE have made, and that a new session agrees.
func (v *visit) checkFolders() error {
	for folder, key := range map[string]string{"Copies": keyCopy, "Moved": keyMove} {
		a, err := v.imap.do("SELECT " + folder)
		if err != nil {
			return err
		}
		n := 0
		if v.wants(Warm, key) {
			n = v.suite.Batch
		}
		if err := want("messages in "+folder, a.exists, n); err != nil {
			return err
		}
	}
	return v.selected()
}

const (
	// resyncChanges are made by another client while this one is away.
	resyncChanges = 100
	resyncs       = 10
)

// resync is what a client does that comes back (RFC 7162, Section 3.1.4.1).
func (v *visit) resync(ctx context.Context) error {
	other, err := loginIMAP(ctx, v.srv.IMAP, v.srv.User, v.srv.Password)
	if err != nil {
		return err
	}
	defer other.close()
	if _, err := other.selectInbox(v.count); err != nil {
		return err
	}
	changes := min(resyncChanges, v.count)
	var last uint64
	add := true
	t := task{name: fmt.Sprintf("resync of %d changes", changes), times: resyncs, before: func() error {
		a, err := v.imap.do("SELECT INBOX (CONDSTORE)")
		if err != nil {
			return err
		}
		last = a.modSeq
		// A keyword that no message has at first.
		op := "-FLAGS.SILENT"
		if add {
			op = "+FLAGS.SILENT"
		}
		add = !add
		if _, err := other.do(fmt.Sprintf("STORE 1:%d %s ($Seen2)", changes, op)); err != nil {
			return err
		}
		v.imap.close()
		return v.login(ctx)
	}, do: func() error {
		a, err := v.imap.do("SELECT INBOX (CONDSTORE)")
		if err != nil {
			return err
		}
		if err := want("messages of INBOX", a.exists, v.count); err != nil {
			return err
		}
		a, err = v.imap.do(fmt.Sprintf("UID FETCH 1:* (FLAGS) (CHANGEDSINCE %d)", last))
		if err != nil {
			return err
		}
		return want("changed messages", a.fetched, changes)
	}}
	return v.measure(ctx, Warm, t, 1)
}
