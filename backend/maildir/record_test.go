package maildir

import (
	"reflect"
	"testing"
	"time"

	"waypost/backend/mailbox"
)

// everyOp has each kind with all that it has.
func everyOp() []op {
	at := time.Unix(1e9, 5)
	return []op{
		{kind: opCreate, dir: ".A", base: "b", letters: "S", fields: "P1", uid: 7, inNew: true, at: at, body: bodyRef{lsn: 9, file: "f", size: 3}},
		{kind: opCopy, fromDir: ".A", fromBase: "b", dir: ".B", base: "c", letters: "F", fields: "x", uid: 1},
		{kind: opMove, fromDir: ".A", fromBase: "b", dir: "", base: "c", uid: 1},
		{kind: opFlags, dir: ".A", base: "b", letters: "RS"},
		{kind: opExpunge, dir: ".A", base: "b"},
		{kind: opNumber, dir: ".A", base: "b", fields: "W1", uid: 3},
		{kind: opDelivered, key: "id", at: time.Unix(1e9, 0)},
		{kind: opMemory, key: "k", at: time.Unix(1e9, 0)},
		{kind: opMakeDir, dir: ".A"},
		{kind: opRenameDir, fromDir: ".A", dir: ".B"},
		{kind: opOutbound, out: mailbox.Outbound{ID: "o", Kind: "notify", From: "f", To: []string{"a", "b"}, UTF8: true}, at: at, body: bodyRef{lsn: 2, size: 1}},
		{kind: opMarks, dir: ".A", base: "b", marks: marks{words: []string{"x", "y"}, email: "e"}},
		{kind: opMarks, dir: ".A", base: "b"},
		{kind: opAttribute, dir: ".A", key: "k", value: "v\x00\n"},
		{kind: opAttribute, dir: ".A", key: "k", removed: true},
		{kind: opSaved, dir: ".A", uid: 4, count: 3, at: time.Unix(1e9, 0)},
	}
}

func TestRecords(t *testing.T) {
	want, kinds := everyOp(), map[opKind]bool{}
	var got []op
	for _, part := range encodeOps(want) {
		ops, _, err := decodeOps(part)
		must(t, err)
		got = append(got, ops...)
	}
	for i := range want {
		kinds[want[i].kind] = true
		if !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("got %+v, want %+v", got[i], want[i])
		}
	}
	same(t, "kinds", len(kinds), int(opKinds)-1)
}

// FuzzRecord: whatever is read can be written, and comes to the same.
func FuzzRecord(f *testing.F) {
	f.Add(encodeOps(everyOp())[0])
	for _, o := range everyOp() {
		f.Add(encodeOps([]op{o})[0])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		ops, _, err := decodeOps(data)
		if err != nil {
			return
		}
		var again []op
		for _, part := range encodeOps(ops) {
			some, _, err := decodeOps(part)
			must(t, err)
			again = append(again, some...)
		}
		if !reflect.DeepEqual(ops, again) {
			t.Fatalf("%+v became %+v", ops, again)
		}
	})
}
