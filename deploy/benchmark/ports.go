package benchmark

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// freeOffset finds a shift at which the cluster's ports are free. They lie below
// the range that the system hands out by itself.
func freeOffset() (int, error) {
	ports := []int{1110, 1111, 1143, 1144, 1587, 1993, 1995, 2525, 2526, 8080, 12379, 12380, 14190}
	for n := range 9 { // the roles: node listener, gossip, metrics
		ports = append(ports, 17000+n, 17100+n, 17200+n)
	}
	for range 100 {
		offset := 10 * rand.IntN(1200)
		if free(ports, offset) {
			return offset, nil
		}
	}
	return 0, errors.New("no range of ports is free on 127.0.0.1")
}

func free(ports []int, offset int) bool {
	for _, p := range ports {
		ln, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p+offset)))
		if err != nil {
			return false
		}
		ln.Close()
	}
	return true
}
