// GETs PREFIX/0 to PREFIX/COUNT-1 with HttpsURLConnection, one after the other, and prints one JSON object for each.
import java.io.InputStream;
import java.net.URL;
import javax.net.ssl.HttpsURLConnection;

public class UrlConnectionRequests {
  public static void main(String[] args) throws Exception {
    String prefix = args[0];
    int count = Integer.parseInt(args[1]);
    long pid = ProcessHandle.current().pid();
    for (int i = 0; i < count; ++i) {
      URL url = new URL(prefix + "/" + i);
      HttpsURLConnection connection = (HttpsURLConnection) url.openConnection();
      // Read to its end and closed: only then is the connection kept for the next one.
      try (InputStream body = connection.getInputStream()) {
        System.out.printf("{\"pid\":%d,\"path\":\"%s\",\"status\":%d,\"size\":%d}%n", pid, url.getPath(),
            connection.getResponseCode(), body.readAllBytes().length);
      }
    }
  }
}
