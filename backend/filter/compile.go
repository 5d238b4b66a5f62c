package filter

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"waypost/backend/scripts"
	"waypost/backend/sieve"
)

// compiled is what came of compiling a script.
type compiled struct {
	script *sieve.Script
	err    error
	// rejects: it may refuse a message, by itself or by what it includes.
	rejects bool
	size    int // of the source, in bytes
}

// maxCompiled and maxCompiledBytes, which counts sources, bound the scripts that
// are kept.
const (
	maxCompiled      = 5000
	maxCompiledBytes = 32 << 20
)

// cacheKey has the name as well: it is in the errors, and nobody is to read the
// name that somebody else has given to the same script.
type cacheKey struct {
	name  string
	stamp scripts.Stamp
}

// cache keeps compiled scripts, whoever's they are. It is safe for concurrent use.
type cache struct {
	limits sieve.Limits

	mu    sync.Mutex // guards all below; never held while a script is compiled
	all   map[cacheKey]compiled
	bytes int
}

func newCache(l sieve.Limits) *cache { return &cache{limits: l, all: map[cacheKey]compiled{}} }

// compile compiles a script, or gives what came of it the last time. stamp is the
// digest of src.
func (c *cache) compile(name string, src []byte, stamp scripts.Stamp) compiled {
	key := cacheKey{name, stamp}
	c.mu.Lock()
	found, known := c.all[key]
	c.mu.Unlock()
	if known {
		return found
	}
	made := compile(name, src, c.limits)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.all[key]; known {
		return made
	}
	for old, was := range c.all { // any: each comes back when it is needed
		if len(c.all) < maxCompiled && c.bytes+made.size <= maxCompiledBytes {
			break
		}
		delete(c.all, old)
		c.bytes -= was.size
	}
	c.all[key] = made
	c.bytes += made.size
	return made
}

func compile(name string, src []byte, l sieve.Limits) compiled {
	c := compiled{size: len(src)}
	lower := strings.ToLower(string(src))
	c.rejects = strings.Contains(lower, "reject") || strings.Contains(lower, "include")
	c.script, c.err = sieve.Compile(name, src, l)
	return c
}

// siteName is what errors call a script of the site. No script of a user is
// called so: their names have no slash (RFC 5804, Section 1.6, as package sieve
// reads it).
func siteName(file string) string { return "site/" + file }

// ofSite tells by its name that a script is not the user's.
func ofSite(name string) bool { return strings.Contains(name, "/") }

// compileSite compiles the site's own files.
func compileSite(files []string, l sieve.Limits) (list []compiled, err error) {
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("site script: %w", err)
		}
		c := compile(siteName(file), src, l)
		if c.err != nil {
			return nil, fmt.Errorf("site script %s: %w", file, c.err)
		}
		list = append(list, c)
	}
	return list, nil
}
