-- The words of tonight's items: one row per item that the catalogue or two people say something of. Never published itself; the
-- column `words` of item_feature.
--
-- words: those of content in the item's title, categories, people, brand and description, and those that two users or more have
-- written of it in its latest 100 reviews before $as_of; what one user alone writes is no word of the item. At most 256: the
-- catalogue's first, then those of most users.
with written as (
    select item_id, user_id, summary, text
    from (
        select
            r.item_id,
            r.user_id,
            r.summary,
            r.text,
            row_number() over (
                partition by r.item_id order by r.event_timestamp desc, r.user_id, r.summary, r.text) as place
        from item_audience as t
        join review as r on r.item_id = t.item_id
        where r.event_timestamp < $as_of
    )
    where place <= 100
),
said as (
    select
        i.item_id,
        cast(null as varchar) as user_id,
        content_words(concat_ws(
            ' ', i.title, array_to_string(i.categories, ' '), array_to_string(i.people, ' '), i.brand, i.description))
            as words
    from item_audience as t
    join item as i on i.item_id = t.item_id
    union all
    select item_id, user_id, content_words(concat_ws(' ', summary, text)) as words
    from written
),
used as (
    select distinct item_id, user_id, word
    from (select item_id, user_id, unnest(words) as word from said)
),
counted as (
    select item_id, word, count(user_id) as n_users, bool_or(user_id is null) as is_catalogued
    from used
    group by item_id, word
),
placed as (
    select
        item_id,
        word,
        row_number() over (partition by item_id order by is_catalogued desc, n_users desc, word) as place
    from counted
    where is_catalogued or n_users >= 2
)
select cast(item_id as varchar) as item_id, array_agg(cast(word as varchar) order by place) as words
from placed
where place <= 256
group by item_id
order by item_id
