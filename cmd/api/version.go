package main

import (
	"fmt"

	"flashsale/internal/version"
)

type versionCmd struct{}

func (versionCmd) Run(s streams) error {
	_, err := fmt.Fprintln(s.out, version.Line())
	return err
}
