package fulltext

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"runtime/debug"

	"github.com/RoaringBitmap/roaring/v2"
	index "github.com/blevesearch/bleve_index_api"
	api "github.com/blevesearch/scorch_segment_api/v2"
	zap "github.com/blevesearch/zapx/v16"
)

// errDamaged: a segment is not what was written.
var errDamaged = errors.New("damaged segment of the text index")

// segment is an open file of the index.
type segment struct {
	path string
	seg  api.Segment
	docs uint64
}

// shielded runs do, which reads maps of files and calls zapx, which panics on what it cannot
// read: both become errors.
func shielded(what string, do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %w: %v", what, errDamaged, r)
		}
	}()
	return do()
}

// openSegment verifies a file and maps it.
func openSegment(path string) (*segment, error) {
	if err := verify(path); err != nil {
		return nil, err
	}
	s := &segment{path: path}
	err := shielded("open "+path, func() (err error) {
		if s.seg, err = (&zap.ZapPlugin{}).Open(path); err == nil {
			s.docs = s.seg.Count()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// verify compares the checksum at the end with what is before it.
func verify(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // is only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() < int64(zap.FooterSize) {
		return fmt.Errorf("%s: %w: %d bytes", path, errDamaged, info.Size())
	}
	sum := crc32.NewIEEE()
	if _, err := io.CopyBuffer(struct{ io.Writer }{sum}, io.LimitReader(f, info.Size()-4), make([]byte, 256<<10)); err != nil {
		return err
	}
	var want [4]byte
	if _, err := io.ReadFull(f, want[:]); err != nil {
		return err
	}
	if binary.BigEndian.Uint32(want[:]) != sum.Sum32() {
		return fmt.Errorf("%s: %w: the checksum is wrong", path, errDamaged)
	}
	return nil
}

func (s *segment) close() {
	_ = shielded("close", s.seg.Close) // was only read
}

// keys calls visit for each message, with its number in the segment.
func (s *segment) keys(visit func(n uint32, k key)) error {
	return shielded("read "+s.path, func() error {
		for n := range s.docs {
			id, err := s.seg.DocID(n)
			if err != nil {
				return err
			}
			if len(id) != len(key{}) {
				return fmt.Errorf("%s: %w: a key of %d bytes", s.path, errDamaged, len(id))
			}
			visit(uint32(n), key(id))
		}
		return nil
	})
}

// with gives the messages that have all of terms in a field.
func (s *segment) with(field string, terms [][]byte) (*roaring.Bitmap, error) {
	dict, err := s.seg.Dictionary(field)
	if err != nil {
		return nil, err
	}
	var all *roaring.Bitmap
	for _, term := range terms {
		list, err := dict.PostingsList(term, nil, nil)
		if err != nil {
			return nil, err
		}
		some := roaring.New()
		if p, ok := list.(*zap.PostingsList); ok {
			p.OrInto(some)
		} else {
			return nil, fmt.Errorf("%s: %w: postings of type %T", s.path, errDamaged, list)
		}
		if all == nil {
			all = some
		} else {
			all.And(some)
		}
		if all.IsEmpty() {
			break
		}
	}
	return all, nil
}

// find adds to hits the messages that may have the string of terms.
func (s *segment) find(terms [][]byte, body bool, hits map[key]struct{}) error {
	return shielded("look up in "+s.path, func() error {
		found, err := s.with(fieldLong, [][]byte{[]byte(termLong)})
		if err != nil {
			return err
		}
		fields := []string{fieldBody, fieldHeader}
		if body {
			fields = fields[:1]
		}
		for _, name := range fields {
			more, err := s.with(name, terms)
			if err != nil {
				return err
			}
			found.Or(more)
		}
		for it := found.Iterator(); it.HasNext(); {
			id, err := s.seg.DocID(uint64(it.Next()))
			if err != nil {
				return err
			}
			if len(id) != len(key{}) {
				return fmt.Errorf("%s: %w: a key of %d bytes", s.path, errDamaged, len(id))
			}
			hits[key(id)] = struct{}{}
		}
		return nil
	})
}

// writeSegment makes a file of documents, synced.
func writeSegment(path string, docs []index.Document) error {
	return shielded("write "+path, func() error {
		made, _, err := (&zap.ZapPlugin{}).New(docs)
		if err != nil {
			return err
		}
		defer made.Close() // holds memory only
		p, ok := made.(api.UnpersistedSegment)
		if !ok {
			return fmt.Errorf("a segment of type %T cannot be written", made)
		}
		return p.Persist(path)
	})
}

// mergeSegments makes one file of several, without drops, synced. It ends when stop is closed.
func mergeSegments(path string, from []*segment, drops []*roaring.Bitmap, stop chan struct{}) error {
	segs := make([]api.Segment, len(from))
	for i, s := range from {
		segs[i] = s.seg
	}
	return shielded("merge into "+path, func() error {
		_, _, err := (&zap.ZapPlugin{}).Merge(segs, drops, path, stop, nil)
		return err
	})
}
