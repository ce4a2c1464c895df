package main

import (
	"cmp"

	"github.com/jedib0t/go-pretty/v6/table"

	"flashsale/internal/strategy"
)

type strategiesCmd struct {
	JSON bool `help:"Print JSON."`
}

func (c strategiesCmd) Run(s streams) error {
	if c.JSON {
		return s.json(strategy.All())
	}
	t := s.table("name", "lock", "server", "write", "token", "safe with", "MySQL servers", "shows")
	for _, row := range strategy.All() {
		token, replicas := "-", "any number"
		if row.Token {
			token = "yes"
		}
		switch row.Replicas {
		case 0:
			replicas = "none"
		case 1:
			replicas = "1 replica"
		}
		t.AppendRow(table.Row{row.Name, cmp.Or(string(row.Lock), "-"), cmp.Or(string(row.Server), "-"), row.Write, token, replicas, row.Servers(), row.Shows})
	}
	t.Render()
	return nil
}
