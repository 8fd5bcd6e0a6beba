-- Tells agents at once when a project in PostgreSQL was saved, renamed or removed. Once for each schema that has a table
-- qgis_projects, as its owner:
--
--   psql -d gis -v schema=maps -f docs/sql/notify.sql
--
-- Agents listen on the channel that worker.storage.postgresql.channel names; the payload is `schema.project`, or empty
-- for "anything". Without this trigger agents look by themselves every worker.storage.check_interval seconds.

SET search_path TO :"schema";

CREATE OR REPLACE FUNCTION graticule_notify() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    project text;
BEGIN
    FOR project IN
        SELECT DISTINCT name FROM unnest(ARRAY[
            CASE WHEN TG_OP <> 'INSERT' THEN OLD.name END,
            CASE WHEN TG_OP <> 'DELETE' THEN NEW.name END
        ]) AS names (name) WHERE name IS NOT NULL
    LOOP
        -- PostgreSQL takes payloads of up to 7999 bytes.
        PERFORM pg_notify('graticule_projects', CASE
            WHEN octet_length(TG_TABLE_SCHEMA || '.' || project) < 8000 THEN TG_TABLE_SCHEMA || '.' || project
            ELSE ''
        END);
    END LOOP;
    RETURN NULL;
END
$$;

DROP TRIGGER IF EXISTS graticule_notify ON qgis_projects;
CREATE TRIGGER graticule_notify AFTER INSERT OR UPDATE OR DELETE ON qgis_projects
    FOR EACH ROW EXECUTE FUNCTION graticule_notify();
