// Generates one video on an easyanim server: shows progress, saves the file once it is verified, and tells the
// server to stop on Ctrl-C or when the time is over.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "easyanim-example/easyanim/v1"
)

func main() {
	address := flag.String("address", "localhost:50051", "host and port of the server")
	prompt := flag.String("prompt", "steam rises from the cup", "what happens in the video")
	image := flag.String("image", "", "first frame: a PNG, JPEG or WebP file")
	out := flag.String("out", "out.mp4", "file to write")
	bucket := flag.String("bucket", "", "height by width, such as 384x672 (default: by the image's aspect)")
	steps := flag.Int("steps", 0, "denoising steps (default: the server's)")
	solver := flag.String("solver", "", "one of the solvers that the model is said to have (default: the published one)")
	rescale := flag.Float64("guidance-rescale", 0, "how far guidance's glare is taken off, 0 to 1")
	timeout := flag.Duration("timeout", time.Hour, "how long the video may take")
	flag.Parse()

	// Ctrl-C ends the context, which cancels the call, which stops the work on the GPU.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()

	request := &pb.GenerateRequest{Prompt: *prompt}
	if *bucket != "" {
		request.Size = &pb.GenerateRequest_Bucket{Bucket: *bucket}
	}
	if *steps != 0 {
		count := int32(*steps)
		request.StepCount = &count
	}
	if *solver != "" {
		request.Acceleration = &pb.Acceleration{Solver: solver}
	}
	if *rescale != 0 {
		request.GuidanceRescale = rescale
	}
	if err := generate(ctx, *address, request, *image, *out); err != nil {
		fmt.Fprintln(os.Stderr, explain(err))
		os.Exit(1)
	}
}

// generate makes the call and saves the video.
func generate(ctx context.Context, address string, request *pb.GenerateRequest, image, out string) error {
	if image != "" {
		data, err := os.ReadFile(image)
		if err != nil {
			return err
		}
		request.StartImage = data
	}
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	service := pb.NewVideoServiceClient(connection)
	info, err := service.GetServerInfo(ctx, &pb.GetServerInfoRequest{})
	if err != nil {
		return err
	}
	fmt.Println(introduce(info))
	stream, err := service.Generate(ctx, request)
	if err != nil {
		return err
	}

	// Beside its place, so that the finished file is moved there in one step or not at all.
	file, err := os.Create(out + ".part")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	completed, err := receive(stream, file)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), out); err != nil {
		return err
	}
	made := completed.Receipt.Parameters
	fmt.Printf("%s: %d bytes, SHA-256 %x, %s, seed %d, %.1f s\n", out, completed.SizeBytes, completed.Sha256,
		made.Solver, made.Seed, completed.Timings.TotalDuration.AsDuration().Seconds())
	return nil
}

// introduce says what the server's model is: V5 and V5.1 read prompts with other tokenizers and have other solvers.
// All but the name is empty until the model is loaded.
func introduce(info *pb.GetServerInfoResponse) string {
	line := fmt.Sprintf("%s, %s: makes videos from %s; solvers %s", info.Model.GetName(), info.Model.GetFamily(),
		strings.Join(info.Tasks, ", "), strings.Join(info.Solvers, ", "))
	for _, tokenizer := range info.Tokenizers {
		line += fmt.Sprintf("; %s reads %d tokens", tokenizer.Name, tokenizer.MaxTokenCount)
	}
	return line
}

// receive shows every event and writes the video's bytes to file, whose size and SHA-256 it checks.
func receive(stream grpc.ServerStreamingClient[pb.GenerateResponse], file *os.File) (*pb.Completed, error) {
	digest := sha256.New()
	var size int64
	var completed *pb.Completed
	for {
		response, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		switch event := response.Event.(type) { // kinds that a newer server may send are passed over
		case *pb.GenerateResponse_Accepted:
			fmt.Printf("job %s: %s, seed %d\n", event.Accepted.JobId, event.Accepted.Parameters.Bucket,
				event.Accepted.Parameters.Seed)
		case *pb.GenerateResponse_Queued:
			fmt.Printf("queued, %d ahead\n", event.Queued.JobsAheadCount)
		case *pb.GenerateResponse_Progress:
			fmt.Println(describe(event.Progress))
		case *pb.GenerateResponse_Chunk:
			if event.Chunk.OffsetBytes != size {
				return nil, fmt.Errorf("a chunk starts at byte %d where %d was expected", event.Chunk.OffsetBytes, size)
			}
			digest.Write(event.Chunk.Data)
			if _, err := file.WriteAt(event.Chunk.Data, size); err != nil {
				return nil, err
			}
			size += int64(len(event.Chunk.Data))
		case *pb.GenerateResponse_Restarted: // the server lost its GPU process; the file begins anew
			fmt.Printf("restarted, run %d: %s\n", event.Restarted.Attempt, event.Restarted.Detail)
			digest.Reset()
			size = 0
			if err := file.Truncate(0); err != nil {
				return nil, err
			}
		case *pb.GenerateResponse_Completed:
			completed = event.Completed
		}
	}
	if completed == nil || completed.SizeBytes != size || !bytes.Equal(completed.Sha256, digest.Sum(nil)) {
		return nil, errors.New("what arrived is not the file that the server announced")
	}
	return completed, nil
}

// describe says where a generation stands, in one line.
func describe(progress *pb.Progress) string {
	phase := strings.ToLower(strings.TrimPrefix(progress.Phase.String(), "PHASE_"))
	line := fmt.Sprintf("%s %d/%d", phase, progress.CompletedCount, progress.TotalCount)
	if progress.EtaDuration != nil {
		line += fmt.Sprintf(", %s left", progress.EtaDuration.AsDuration().Round(100*time.Millisecond))
	}
	return line
}

// explain says what went wrong and what the caller can do about it: the server's google.rpc details in words.
func explain(err error) string {
	failure, ok := status.FromError(err)
	if !ok {
		return err.Error()
	}
	if failure.Code() == codes.Canceled {
		return "cancelled; the server was told to stop"
	}
	lines := []string{fmt.Sprintf("%s: %s", failure.Code(), failure.Message())}
	for _, detail := range failure.Details() {
		switch detail := detail.(type) {
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				lines = append(lines, fmt.Sprintf("  %s %s", violation.Field, violation.Description))
			}
		case *errdetails.RetryInfo:
			lines = append(lines, fmt.Sprintf("  try again in %s", detail.RetryDelay.AsDuration()))
		case *errdetails.ErrorInfo:
			lines = append(lines, fmt.Sprintf("  reason %s %v", detail.Reason, detail.Metadata))
		}
	}
	return strings.Join(lines, "\n")
}
