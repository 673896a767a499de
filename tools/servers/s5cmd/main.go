// s5cmd with a main package of our own: its version is asked of the build, as s5cmd itself only knows it from its makefile.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/peak/s5cmd/v2/command"
)

const s5cmd = "github.com/peak/s5cmd/v2"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, module := range info.Deps {
				if module.Path == s5cmd {
					fmt.Println(module.Version)
				}
			}
		}
		return
	}
	if err := command.Main(context.Background(), os.Args); err != nil {
		os.Exit(1)
	}
}
