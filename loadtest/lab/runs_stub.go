package lab

import "flashsale/internal/record"

func diagramOf(some []record.Step) *Diagram {
	d := &Diagram{Lanes: []Lane{{Name: "MySQL", Kind: "database"}}}
	for _, s := range some {
		d.Steps = append(d.Steps, DiagramStep{US: s.Wall.Sub(some[0].Wall).Microseconds(), Kind: string(s.Kind), Text: s.Replica + " " + string(s.Kind)})
	}
	return d
}
