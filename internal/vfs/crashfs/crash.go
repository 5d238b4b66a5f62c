package crashfs

import "math/rand/v2"

// odds is the luck of the changes that a crash found unsynced: p is the chance of
// each to survive.
type odds struct {
	rng *rand.Rand
	p   float64
}

func drawOdds(rng *rand.Rand) odds {
	switch rng.IntN(4) {
	case 0:
		return odds{rng, 0}
	case 1:
		return odds{rng, 1}
	}
	return odds{rng, 0.2 + 0.7*rng.Float64()}
}

func (o odds) survives() bool { return o.p == 1 || o.p > 0 && o.rng.Float64() < o.p }
func (o odds) none() bool     { return o.p == 0 }
func (o odds) mixed() bool    { return o.p > 0 && o.p < 1 }

// Crash cuts the power: it gives the file system that the machine finds when it
// starts again, and takes f down. The outcome depends on what was done with f and
// on rnd alone; on the same f, Crash may be called again, for another outcome of the
// same moment.
func (f *FS) Crash(rnd *rand.Rand) *FS {
	after := f.stop(rnd)
	after.settle(rnd)
	return after
}

// Kill ends all processes: it gives the file system as the next process finds it,
// with everything in place but the locks and the files that had no name, and still
// unsynced what was. It takes f down.
func (f *FS) Kill() *FS {
	return f.stop(nil)
}

// stop takes f down and gives a copy of it with no open files. The copy's own
// randomness comes from rnd, or from f's if rnd is nil.
func (f *FS) stop(rnd *rand.Rand) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = true
	f.unlocked.Broadcast()
	if rnd == nil {
		rnd = f.rng
	}
	c := copier{newFS(rand.New(rand.NewPCG(rnd.Uint64(), 0))), map[*inode]*inode{}}
	c.to.lastIno, c.to.lastSeq = f.lastIno, f.lastSeq
	c.to.root = c.inode(f.root)
	for _, ch := range f.pending {
		c.to.pending = append(c.to.pending, c.change(ch))
	}
	for n := range f.dirty {
		// A dirty file that neither a name nor a pending change knows is gone.
		if n, ok := c.known[n]; ok {
			c.to.dirty[n] = struct{}{}
		}
	}
	return c.to
}

// settle draws what the disk has, and makes it all there is.
func (f *FS) settle(rng *rand.Rand) {
	f.settleNames(drawOdds(rng))
	luck := drawOdds(rng)
	for _, n := range f.inOrder() {
		own := luck
		if luck.mixed() {
			own = drawOdds(rng)
		}
		n.settleAttr(own)
		n.settleContents(own)
	}
	clear(f.dirty)
	f.root.forget()
	f.reach(f.root, map[*inode]bool{})
}

// settleNames walks the changes in their order. One that is lost takes with it the
// later changes of the same names, which would make no sense without it. Renames of
// folders count as changes of one more name that they all share: if the first of
// "a/b to c" and "a to c/a" were lost alone, a and b would be in each other.
func (f *FS) settleNames(luck odds) {
	lost := map[slot]bool{}
	var lostFolder bool
	for _, c := range f.pending {
		survives := luck.survives() && !(c.folder && lostFolder)
		for _, s := range c.sets {
			survives = survives && !lost[s.slot]
		}
		if survives {
			c.apply()
			continue
		}
		lostFolder = lostFolder || c.folder
		for _, s := range c.sets {
			lost[s.slot] = true
		}
	}
	f.pending = nil
}

// reach makes the durable state the only one in all that dir leads to, and counts
// links. A file is met under each of its names; seen has those met before.
func (f *FS) reach(dir *inode, seen map[*inode]bool) {
	for _, e := range dir.names {
		n := e.node
		if n.isDir() {
			dir.links++
			n.parent = dir
			n.forget()
			f.reach(n, seen)
			continue
		}
		if !seen[n] {
			n.forget()
			seen[n] = true
		}
		n.links++
	}
}

// copier copies a file system. Contents are shared until one side writes.
type copier struct {
	to    *FS
	known map[*inode]*inode
}

func (c copier) inode(n *inode) *inode {
	if n == nil {
		return nil
	}
	if to, ok := c.known[n]; ok {
		return to
	}
	to := &inode{
		ino: n.ino, attr: n.attr, durAttr: n.durAttr, links: n.links, changes: n.changes,
		vol: n.vol.share(), dur: n.dur.share(),
		writes: n.writes[:len(n.writes):len(n.writes)], // only ever appended to
	}
	c.known[n] = to
	to.parent = c.inode(n.parent)
	if n.isDir() {
		to.names, to.durable = c.names(n.names), c.names(n.durable)
	}
	return to
}

func (c copier) names(from map[string]entry) map[string]entry {
	to := make(map[string]entry, len(from))
	for name, e := range from {
		to[name] = entry{c.inode(e.node), e.seq}
	}
	return to
}

func (c copier) change(from change) change {
	to := change{make([]set, len(from.sets)), from.folder}
	for i, s := range from.sets {
		to.sets[i] = set{slot{c.inode(s.dir), s.name}, entry{c.inode(s.to.node), s.to.seq}}
	}
	return to
}
