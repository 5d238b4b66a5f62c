package cache

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc64"
	"os"
)

// ReadSnapshot calls fn with each entry of a snapshot file, with its key as in the
// store, and gives the era it is of: a node's copy of the directory, from which one
// that was lost is restored (R10). Nothing of a damaged file is to be used: the
// error comes at its end.
func ReadSnapshot(path string, fn func(key string, value []byte) error) (era string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r := &snapshotReader{r: bufio.NewReaderSize(f, 256<<10), sum: crc64.New(crc64.MakeTable(crc64.ECMA))}
	if string(r.bytes(uint64(len(snapshotMagic)))) != snapshotMagic {
		return "", fmt.Errorf("%s: %w", path, errors.Join(errSnapshot, r.err))
	}
	for n := uint64(0); ; n++ {
		tag, _ := r.ReadByte()
		if tag == 0 {
			if r.end(n); r.err == nil && era == "" {
				r.err = errSnapshot
			}
			break
		}
		key := string(r.bytes(r.uvarint()))
		r.uvarint() // the revision, which is another store's
		value := r.bytes(r.uvarint())
		if r.err != nil {
			break
		}
		if n == 0 && tag == tagEra {
			era = string(value)
			continue
		}
		prefix, ok := prefixOf(tag)
		if !ok {
			r.fail(fmt.Errorf("entry %q of an unknown kind", key))
			break
		}
		if err := fn(prefix+key, value); err != nil {
			return "", err
		}
	}
	if r.err != nil {
		return "", fmt.Errorf("%s: %w", path, r.err)
	}
	return era, nil
}

func prefixOf(tag byte) (string, bool) {
	for i := range kinds {
		if kinds[i].tag == tag {
			return kinds[i].prefix, true
		}
	}
	return "", false
}
