// GETs PREFIX/0 to PREFIX/COUNT-1 with java.net.http, one after the other, and prints one JSON object for each.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class HttpClientRequests {
  public static void main(String[] args) throws Exception {
    String prefix = args[0];
    int count = Integer.parseInt(args[1]);
    long pid = ProcessHandle.current().pid();
    HttpClient client = HttpClient.newHttpClient();
    for (int i = 0; i < count; ++i) {
      URI uri = URI.create(prefix + "/" + i);
      HttpResponse<byte[]> answer =
          client.send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofByteArray());
      System.out.printf("{\"pid\":%d,\"path\":\"%s\",\"status\":%d,\"size\":%d}%n", pid, uri.getPath(),
          answer.statusCode(), answer.body().length);
    }
  }
}
