module flashsale/tools/goprotoc

go 1.26.0

tool (
	github.com/jhump/goprotoc/cmd/goprotoc
	google.golang.org/grpc/cmd/protoc-gen-go-grpc
	google.golang.org/protobuf/cmd/protoc-gen-go
)

require (
	github.com/golang/protobuf v1.5.4 // indirect
	github.com/jhump/gopoet v0.0.0-20190322174617-17282ff210b3 // indirect
	github.com/jhump/goprotoc v0.5.0 // indirect
	github.com/jhump/protoreflect v1.11.0 // indirect
	google.golang.org/genproto v0.0.0-20200526211855-cb27e3aa2013 // indirect
	google.golang.org/grpc/cmd/protoc-gen-go-grpc v1.6.2 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
