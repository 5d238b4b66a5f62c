// Package stack makes the stack of a new goroutine large at once.
//
// A goroutine begins with 2 KiB and gets twice as much whenever that is too little; each time
// what is on the stack is copied, frame by frame, which costs the more the deeper the calls are
// that need more. A session of a mail client gets to 16 KiB within its first milliseconds, deep
// in TLS, in three steps. Made at its beginning, when there is nothing to copy, that is one cheap step. What
// is not used is taken back by the garbage collector, as of any goroutine.
package stack

// bytes needs a stack of 16 KiB.
const bytes = 9 << 10

// Grow is called first in a goroutine that is going to need a large stack.
//
//go:noinline
func Grow() {
	var room [bytes]byte
	touch(&room)
}

// touch keeps the compiler from leaving room out.
//
//go:noinline
func touch(room *[bytes]byte) { room[0] = 1 }
