import edu.anu.spice.SpiceArguments;
import edu.anu.spice.SpiceScorer;
import java.lang.reflect.Constructor;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** SPICE's scores of the captions in a JSON file, written to another: java -cp SPICE SpiceScores.java IN OUT. */
public class SpiceScores {
    public static void main(String[] files) throws Exception {
        // Its constructors are for its own package; files and their sizes go through its own argument parser.
        Constructor<SpiceScorer> scorers = SpiceScorer.class.getDeclaredConstructor();
        Constructor<SpiceArguments> arguments = SpiceArguments.class.getDeclaredConstructor(String[].class);
        scorers.setAccessible(true);
        arguments.setAccessible(true);
        SpiceScorer scorer = scorers.newInstance();
        scorer.scoreBatch(arguments.newInstance((Object) new String[] {files[0], "-silent"}));
        Files.write(Path.of(files[1]), scorer.stats.toJSONString().getBytes(StandardCharsets.UTF_8));
    }
}
