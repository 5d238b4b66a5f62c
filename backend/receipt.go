package backend

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"waypost/backend/control"
	"waypost/backend/fence"
	"waypost/backend/manifest"
	"waypost/director"
	"waypost/internal/durable"
)

// A receipt is what a move brought to this backend: the manifest that both sides
// agreed on, with the UIDs of the messages, durable before the seal is answered.
// The directory has its digest, and so has the manifest in the source's trash.
//
// What is written inside the busy time is only what changed since the last hot pass:
// that pass left the base, the receipt of its own manifest, and the receipt proper
// says what is to be taken away from the base and what is to be put in. A receipt
// proves itself: the digest over base and changes is that of its head.

// receiptHead is the first line.
type receiptHead struct {
	Version int            `json:"v"`
	User    director.User  `json:"user"`
	Epoch   director.Epoch `json:"epoch"` // the move's busy epoch
	// Source and Target are what each side said of its own tree; they are equal.
	Source string    `json:"source_digest"`
	Target string    `json:"target_digest"`
	Made   time.Time `json:"made"`
	// OnBase: the lines are changes of the base beside it.
	OnBase bool `json:"on_base,omitempty"`
	// Validity has the UIDVALIDITY of each folder, by its path.
	Validity map[control.TreePath]uint32 `json:"uidvalidity,omitempty"`
}

// receiptLine is one entry of the manifest; Gone takes that path away.
type receiptLine struct {
	control.ManifestEntry
	UID  uint32 `json:"uid,omitempty"`
	Gone bool   `json:"gone,omitempty"`
}

// receipt is one in memory.
type receipt struct {
	head  receiptHead
	lines map[control.TreePath]receiptLine
}

const receiptVersion = 1

// errReceipt: a receipt that does not prove what it says.
var errReceipt = errors.New("the receipt is damaged")

// manifest gives the manifest that a receipt stands for.
func (r *receipt) manifest() control.Manifest {
	m := control.Manifest{Entries: make([]control.ManifestEntry, 0, len(r.lines))}
	for _, l := range r.lines {
		m.Entries = append(m.Entries, l.ManifestEntry)
	}
	slices.SortFunc(m.Entries, func(a, b control.ManifestEntry) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return m
}

// changes gives the lines that make r out of base, in the order of their paths.
func (r *receipt) changes(base *receipt) []receiptLine {
	var out []receiptLine
	for path, l := range r.lines {
		if have, ok := base.lines[path]; !ok || have != l {
			out = append(out, l)
		}
	}
	for path := range base.lines {
		if _, ok := r.lines[path]; !ok {
			out = append(out, receiptLine{ManifestEntry: control.ManifestEntry{Path: path}, Gone: true})
		}
	}
	slices.SortFunc(out, func(a, b receiptLine) int { return strings.Compare(string(a.Path), string(b.Path)) })
	return out
}

// apply makes changes.
func (r *receipt) apply(lines []receiptLine) {
	for _, l := range lines {
		if l.Gone {
			delete(r.lines, l.Path)
		} else {
			r.lines[l.Path] = l
		}
	}
}

// write makes a receipt durable at path.
func (h receiptHead) write(path string, lines []receiptLine) error {
	if err := durable.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	err := durable.WriteFunc(path, 0o600, func(w io.Writer) error {
		// Most of it are digests, which nothing makes smaller: speed counts.
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			return err
		}
		buf := bufio.NewWriterSize(z, 64<<10)
		enc := json.NewEncoder(buf)
		if err := enc.Encode(h); err != nil {
			return err
		}
		for _, l := range lines {
			if err := enc.Encode(l); err != nil {
				return err
			}
		}
		if err := buf.Flush(); err != nil {
			return err
		}
		return z.Close()
	})
	if err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	return nil
}

// readReceiptFile reads the lines of one file.
func readReceiptFile(path string) (h receiptHead, lines []receiptLine, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, nil, fmt.Errorf("receipt: %w", err)
	}
	defer f.Close()
	bad := func(err error) (receiptHead, []receiptLine, error) {
		return h, nil, fmt.Errorf("%s: %w: %w", path, errReceipt, err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return bad(err)
	}
	dec := json.NewDecoder(z)
	if err := dec.Decode(&h); err != nil {
		return bad(err)
	}
	if h.Version != receiptVersion {
		return bad(fmt.Errorf("version %d", h.Version))
	}
	for {
		var l receiptLine
		switch err := dec.Decode(&l); {
		case errors.Is(err, io.EOF):
			return h, lines, nil
		case err != nil:
			return bad(err)
		}
		lines = append(lines, l)
	}
}

// readReceipt reads what the move whose busy epoch was epoch brought, and proves it
// against its own head.
func (d disk) readReceipt(u director.User, epoch director.Epoch) (*receipt, error) {
	h, changes, err := readReceiptFile(d.receipt(u, epoch))
	if err != nil {
		return nil, err
	}
	r := &receipt{head: h, lines: make(map[control.TreePath]receiptLine)}
	if h.OnBase {
		_, base, err := readReceiptFile(d.receiptBase(u, epoch))
		if err != nil {
			return nil, err
		}
		r.apply(base)
	}
	r.apply(changes)
	if !manifest.Proves(r.manifest(), h.Target) || h.Source != h.Target || h.User != u || h.Epoch != epoch {
		return nil, fmt.Errorf("receipt of %s at %d: its entries are not what its head says, %s: %w", u, epoch, h.Target, errReceipt)
	}
	return r, nil
}

// receipt and its like are files of one move, named by its busy epoch.
func (d disk) receipt(u director.User, e director.Epoch) string {
	return filepath.Join(d.receiptRoot(), fence.Shard(u), fmt.Sprintf("%s@%d", u, e))
}
func (d disk) receiptBase(u director.User, e director.Epoch) string {
	return d.receipt(u, e) + baseSuffix
}
func (d disk) receiptRoot() string { return filepath.Join(d.root, "receipts") }

// baseSuffix ends the name of a base. ',' is in no epoch.
const baseSuffix = ",base"
