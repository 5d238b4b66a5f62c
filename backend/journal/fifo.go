package journal

// fifo is a queue that is also read by index.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) push(v T)   { f.items = append(f.items, v) }
func (f *fifo[T]) len() int   { return len(f.items) - f.head }
func (f *fifo[T]) at(i int) T { return f.items[f.head+i] }

// pop drops the oldest. Room is given back when half of it is unused, so that
// each item is copied at most once.
func (f *fifo[T]) pop() T {
	var none T
	v := f.items[f.head]
	f.items[f.head] = none
	f.head++
	if f.head > 1024 && 2*f.head > len(f.items) {
		f.items = append([]T(nil), f.items[f.head:]...)
		f.head = 0
	}
	return v
}
