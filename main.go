// Command waypost is a sharded mail cluster: see deploy/cli, or waypost --help.
package main

import (
	"os"

	"waypost/deploy/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
